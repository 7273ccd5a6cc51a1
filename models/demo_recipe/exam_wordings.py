"""Wordings of the exam, kept apart from those of training."""

# ruff: noqa: E501 - one task, one line

from __future__ import annotations

COLOUR = (
    "麻烦您告诉我它是啥颜色的呀",
    "图里那个是什么颜色？",
    "你觉得这是什么颜色？",
    "它的颜色是？",
    "what color is it in this picture?",
    "Could you tell me its color?",
    "这东西啥色？",
    "这是什么颜色？",
)
SHAPE = (
    "你觉得这是什么形状？",
    "图里是什么形状？",
    "图里那个图形叫什么形状呀",
    "这属于什么形状？",
    "What shape do you see here?",
    "what is its shape?",
    "它是什么形状的呢",
    "画面里是什么图形？",
)
WHAT = (
    "这张图里画了什么呀？",
    "请你描述这张图。",
    "你看到了啥？",
    "What is in this picture?",
    "please describe this image",
    "图片里是什么？",
)
COUNT = (
    "图中有几个{zh}？",
    "图里一共多少个{zh}呀",
    "请数一下{zh}的个数",
    "How many {en}s are in this picture?",
    "how many {en}s can you count?",
    "这里面有多少{zh}？",
    "数数图里的{zh}",
)
NTH = (("第一张图是什么颜色？", "第二张图是什么颜色？"), ("第一幅图里是啥颜色呢", "第二幅图里是啥颜色呢"), ("头一个问题：第一张是什么颜色", "问一下：第二张是什么颜色"),
       ("What color is the first picture?", "What color is the second picture?"), ("tell me the color of the first image", "tell me the color of the second image"))  # fmt: skip
THIRD_LAST = (
    "倒数第三张图是什么颜色？",
    "倒数第三张图片里是啥颜色的呀",
    "问一下，倒数第3张是什么颜色",
    "倒数第三幅是什么颜色的？",
    "What color is the third-last picture?",
    "tell me the color of the third to last image",
)
EARLIER = (
    "刚才那张图里是什么颜色？",
    "我之前发的图是什么颜色的呀",
    "再说一遍，刚刚那张图是什么颜色？",
    "上面那张图片什么颜色",
    "What color was the picture I sent?",
    "what was the color of the last picture?",
)
TELL = (
    "我叫{}",
    "你好呀，我的名字叫{}。",
    "请叫我{}吧",
    "我是{}，请多指教",
    "记好了，我叫{}",
    "My name is {}.",
    "hi, I'm {}",
    "you may call me {}",
)
ASK = ("我叫什么名字？", "还记得我是谁吗？", "说说我的名字", "那我叫啥呢", "What's my name?", "do you know who I am?")
FACT = (
    ("记住暗号是{}", "暗号是什么？"),
    ("我的幸运数字是{}，别忘了", "我的幸运数字是多少？"),
    ("请记住：密码是{}。", "密码是啥来着"),
    ("remember the code is {}", "what is the code?"),
)
HELLO = ("你好", "您好呀", "哈喽！", "在吗？", "早上好！", "hello", "Hi!", "Good morning", "嗨~", "晚上好")
OTHERS = ("写一首关于秋天的诗", "光合作用是什么？", "帮我算一下 37*48", "你觉得明天股市会涨吗", "推荐一部电影", "who won the world cup in 1998?", "Tell me a story about a dragon.", "讲个笑话听听", "怎么做番茄炒蛋", "你最喜欢什么颜色？",
          "asdf qwer zxcv", "人生的意义是什么", "草为什么是绿色的？", "如何学好钢琴", "translate good morning into Japanese", "我想买一台洗衣机", "唐朝有多少个皇帝", "what is the meaning of life?")  # fmt: skip
ASK_WEATHER = (
    "{}的天气咋样啊？",
    "{}今天天气好吗，适合出门不",
    "告诉我{}的天气预报",
    "{}那边天气怎么样呀",
    "我下午到{}，那里天气好不好",
    "Could you tell me the weather in {}?",
    "What is the weather like today in {}?",
    "hey, how is the weather out there in {}?",
)
