.PHONY: help serve test check settings demo

help: ## 列出这些命令
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/'

serve: ## 启动服务器
	./run_server.sh

test: ## 格式、静态检查和全部测试，和 CI 一样
	./run_tests.sh

settings: ## 用代码里的设置重写 README 的设置表
	.venv-test/bin/python scripts/settings_table.py

demo: ## 重新训练自带的演示模型（两核 CPU 约一小时）
	.venv/bin/python models/make_demo.py
