"""Every knob, described and defaulted once: the source of the flags, the environment and the README table.

One frozen class per room. A field ``max_body_mb`` of section ``server`` is the flag ``--max-body-mb``, the
variable ``QQVL_MAX_BODY_MB`` and the key ``max_body_mb`` under ``server:`` in ``qqvl.yaml``. This module knows
no argv and no file; ``cli.py`` and ``config.py`` bring them.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from qqvl_server.manners import MannersSettings
from qqvl_server.sending import SendingSettings
from qqvl_server.setting_types import Hosts, Ids, Room, Words, chats, devices, off, switch
from qqvl_server.upstreams import UpstreamSettings

DEFAULT_SYSTEM_PROMPT = (
    "你是一个友好的 QQ 聊天助手。请用简短自然的中文回答；对方用英文提问时用英文回答。"
    "群聊里每条消息开头的方括号是发言人的名片和 QQ 号，回答时不要重复它。"
)


class ServerSettings(Room):
    host: str = Field(
        "127.0.0.1", description="监听地址。默认只有本机能访问；0.0.0.0 表示所有网卡，请同时设置 api_keys"
    )
    port: int = Field(9999, ge=0, le=65535, description="监听端口；0 表示由系统挑选")
    api_keys: Words = Field(
        (),
        description="访问密钥，可写多个，用逗号隔开；设置后除 /health、/ready 外都要带密钥。"
        "写成 qq=密钥、openai=密钥、admin=密钥（可用 + 连写）则只能用于那几类接口",
    )
    api_keys_file: str = Field("", description="密钥文件，一行一个，写法同 api_keys，# 开头为注释；请 chmod 600")
    served_model_name: Words = Field(
        (), description="/v1/models 里的模型名，可写多个，用逗号隔开；留空为模型文件夹的名字"
    )
    any_model_name: bool = Field(
        False,
        description="请求里写什么模型名都收，回答里照写；默认只收 served_model_name 里的，别的是 404。"
        "给写死了模型名的程序用，如 Claude Code",
    )
    allowed_hosts: Words = Field((), description="额外允许的 Host 名（域名或容器名）；IP 与 localhost 不用写")
    allowed_origins: Words = Field(
        (),
        description="允许哪些网页在浏览器里直接用（CORS），如 https://网址，可写多个，* 为任何网页；请同时设 api_keys",
    )
    rate_limit: str = Field(
        "",
        pattern=r"^(\d+/(second|minute|hour|day))?$",
        examples=["60/minute"],
        description="每个密钥（没设密钥时每个地址）最多问多少次，如 60/minute，QQ 的每个会话各算各的，"
        "合起来最多 50 倍；超出的得到 429。留空不限",
    )
    rate_store_url: str = Field(
        "",
        description="几台服务器一起数 rate_limit 用的 Redis（或 Valkey），如 redis://:密码@主机:6379/0；要装 redis。"
        "它不在时各数各的；留空自己数",
    )
    max_body_mb: int = Field(32, ge=1, le=1024, description="一个请求体最多多少 MB")
    max_buffered_mb: int = Field(
        256, ge=1, le=65536, description="所有请求体同时占用的内存上限，MB；64 KB 以内的不受它限制，大的先等再拒"
    )
    body_timeout_s: float = Field(
        20, gt=0, le=3600, description="请求头必须在多少秒内传完；请求体每过这么多秒要传得够快，见 min_body_kb_s"
    )
    min_body_kb_s: float = Field(32, ge=0.1, le=100000, description="请求体至少传多快，KB/s；更慢的断开")
    shutdown_grace_s: float = Field(
        12,
        ge=0,
        le=3600,
        description="停止时最多等正在回答的消息多少秒；守护程序给的时间（systemd 的 TimeoutStopSec、"
        "Kubernetes 的 terminationGracePeriodSeconds）要比它多十秒",
    )


class StorageSettings(Room):
    data_dir: str = Field("", description="所有会变的东西放在这里：聊天记录、图片、日志。留空为项目根目录下的 data/")
    database_url: str = Field(
        "",
        description="几台服务器合用的 PostgreSQL，如 postgresql://用户:密码@主机/库名；要装 asyncpg。"
        "留空为 data_dir 下的 SQLite",
    )
    image_store_url: str = Field(
        "",
        description="几台服务器合用的图片库：file:///共享文件夹，或 s3://桶/前缀?endpoint=https://主机&region=地区"
        "（密钥在环境变量 AWS_ACCESS_KEY_ID、AWS_SECRET_ACCESS_KEY）；要装 obstore。留空只存在 data_dir",
    )
    image_store_gb: float = Field(5, gt=0, le=10240, description="保存图片的磁盘上限，GB；超出后先删最久没用的")
    history_days: int = Field(
        0,
        ge=0,
        le=36500,
        description="QQ 里说的话和记下的原因留多少天，到期趁空闲删掉，没人再提到的图片一起删；0 一直留着",
    )
    conversation_days: int = Field(0, ge=0, le=36500, description="网页上的对话多少天没有再说话就删掉；0 一直留着")
    picture_days: int = Field(0, ge=0, le=36500, description="图片多少天没有再看就删掉；0 只受 image_store_gb 限制")


class WeightsSettings(Room):
    model_path: str = Field(
        "", description="模型文件夹或模型名；留空先找 models/Qwen3-VL-8B-Instruct，没有就用自带的演示模型"
    )
    device: Annotated[str, AfterValidator(devices)] = Field(
        "auto", description="auto、cpu、mps（没测过）、cuda:0，或用逗号隔开的多块显卡，如 cuda:0,cuda:1"
    )
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = Field(
        "auto",
        description="权重精度；auto 在显卡上用 bfloat16（RTX 20、T4 和更老的卡用 float16），在 CPU 上看 CPU 支持什么",
    )
    attn: Literal["sdpa", "flash_attention_2", "eager"] = Field(
        "sdpa", description="注意力实现（只对 generate 引擎）；flash_attention_2 要另装"
    )
    quantization: Literal["none", "bnb-4bit", "bnb-8bit"] = Field(
        "none", description="加载时量化；模型自带量化（GPTQ、AWQ、FP8）时不用写"
    )


class EngineSettings(Room):
    engine: Literal["paged", "generate", "upstream"] = Field(
        "paged",
        description="推理引擎：paged 多个会话一起算、算过的不重算（Qwen3-VL）；generate 一次回答一条，别的模型自动用它"
        "；upstream 不加载模型，去问 upstream_url 那边的服务",
    )
    kv_cache_gb: float = Field(0, ge=0, le=4096, description="paged 引擎的 KV 缓存，GB；0 为按空闲内存自动决定")
    step_tokens: int = Field(1024, ge=16, le=65536, description="paged 引擎一步最多算多少 token；长提示会分几步读")
    step_timeout_s: float = Field(
        0,
        ge=0,
        le=86400,
        description="paged 引擎一步超过多少秒算卡死：/health 变为 503，进程退出以便重启；"
        "0 为自动：显卡上 60，CPU 上 600",
    )
    cuda_graphs: Annotated[Literal["auto", "off"], BeforeValidator(off)] = Field(
        "auto",
        description="显卡上把解码的一步录下来重放（CUDA graph），省去逐个启动算子的时间；off 不录，CPU 上没有作用",
    )
    step_ahead: Annotated[Literal["auto", "off"], BeforeValidator(off)] = Field(
        "auto", description="显卡还在算这一步时就把下一步排好；off 等一步算完再排下一步，CPU 上总是这样"
    )
    torch_compile: Annotated[Literal["off", "on"], BeforeValidator(switch)] = Field(
        "off",
        description="on 用 torch.compile 编译显卡上的文字层：启动时多花一两分钟，每步少启动一些算子；CPU 上没有作用",
    )
    cpu_kernels: Annotated[Literal["auto", "off"], BeforeValidator(off)] = Field(
        "auto",
        description="CPU 上用自带的 C++ 算子：第一次启动时由系统的 c++ 编译，约四秒；"
        "没有编译器就用 PyTorch 的，off 总是用 PyTorch 的",
    )
    max_running: int = Field(
        0, ge=0, le=1024, description="paged 引擎同时回答多少条；0 为自动：CPU 上 16，显卡按显存 8 到 64"
    )


class ClusterSettings(Room):
    replicas: int = Field(
        0, ge=0, le=1024, description="在几个 Ray 副本里跑模型（要装 ray）；0 就在本进程里。一个会话总去同一个副本"
    )
    max_replicas: int = Field(
        0, ge=0, le=1024, description="排队多时最多加到几个副本，闲下来减回 replicas；0 不自动加减"
    )
    replica_gpus: float | None = Field(
        None, ge=0, le=64, description="一个副本用几块显卡，可以是 0.5；不写就是 1，集群里没有显卡时是 0"
    )
    replica_cpus: float = Field(1, gt=0, le=1024, description="一个副本占几个 CPU，在 CPU 上跑模型时也是它的线程数")
    ray_address: str = Field("", description="已有的 Ray 集群，如 auto 或 10.0.0.5:6379；留空就在本机起一个")


class GenerationSettings(Room):
    max_new_tokens: int = Field(1000, ge=1, le=131072, description="一次回复最多多少 token")
    temperature: float | None = Field(None, ge=0, le=2, description="采样温度；不写就用模型自带的设置，0 为贪心")
    top_p: float | None = Field(None, gt=0, le=1, description="核采样；不写就用模型自带的设置")
    top_k: int | None = Field(None, ge=0, le=100000, description="只在前 k 个词里采样；不写就用模型自带的设置")
    repetition_penalty: float | None = Field(None, gt=0, le=2, description="重复惩罚；不写就用模型自带的设置")
    context_tokens: int = Field(
        16384, ge=256, le=1048576, description="提示加回复最多多少 token；不会超过模型本身的上限"
    )
    loose_schemas: bool = Field(
        False,
        description="强制 JSON 时 schema 里编译不了的部分放宽，"
        "响应头 X-Qqvl-Warning 说明是哪里；默认是 400，指出是哪里",
    )
    max_pending: int = Field(
        128, ge=1, le=100000, description="同时排队的消息上限，各会话公平分；超出的立刻得到“请稍后再试”"
    )
    request_timeout_s: float = Field(300, gt=0, le=86400, description="一条消息从收到到答完最多多少秒")


class MediaSettings(Room):
    max_image_tokens: int = Field(1024, ge=4, le=16384, description="一张图最多占多少 token；更大的图按面积缩小")
    max_image_mb: float = Field(20, gt=0, le=1024, description="一张图的文件最多多少 MB")
    max_image_megapixels: float = Field(50, gt=0, le=170, description="一张图最多多少百万像素，解码之前检查")
    max_images: int = Field(16, ge=1, le=256, description="一条消息最多多少张图，多的不看")
    max_frames: int = Field(4, ge=1, le=32, description="一张动图最多看多少个不同的画面")
    decode_timeout_s: float = Field(
        10, ge=1, le=300, description="解码一张图最多用多少秒 CPU 时间；太慢的图不看，再发也不再试"
    )
    min_image_share: float = Field(
        0.5,
        ge=0,
        le=1,
        description="文件不完整的 jpeg、png、gif 至少要有上面多大一部分才看（看时给出警告）；1 表示要完整",
    )
    fetch_remote: Annotated[Literal["public", "listed", "off"], BeforeValidator(off)] = Field(
        "public",
        description="按网址取图：public 从公网地址和 media_allow 取；listed 只从 media_allow 取；off 不取",
    )
    media_allow: Hosts = Field(
        (), description="允许取图的内网主机，写成 主机 或 主机:端口，多个用逗号隔开；不写端口表示任何端口"
    )
    fetch_timeout_s: float = Field(10, gt=0, le=120, description="按网址取一张图最多多少秒")


class ChatSettings(MannersSettings, SendingSettings):
    system_prompt: str = Field(DEFAULT_SYSTEM_PROMPT, description="人设，放在每个会话的最前面；留空表示不要")
    system_prompts: Annotated[dict[str, str], BeforeValidator(chats)] = Field(
        default_factory=dict, description="单独给某个会话的人设，键如 group:123456 或 private:10001（只能写在文件里）"
    )
    group_reply: Annotated[Literal["auto", "addressed", "smart", "all", "off"], BeforeValidator(off)] = Field(
        "auto",
        description="群里回复谁：auto 只回 @ 机器人、引用机器人、唤醒词或叫到名字的，客户端没说 at_me 时每条都回；"
        "addressed 没说 at_me 的也只回叫到它的；smart 还会自己判断要不要插话（没有校准过的判断就和 addressed 一样）；"
        "all 每条都回；off 群里不说话，只听命令",
    )
    picture_tokens: int = Field(
        4096,
        ge=0,
        le=1048576,
        description="一个会话的图在提示里一共最多占多少 token：超过时新的照原样看，旧的缩小到 64 token，"
        "再旧的只剩一句说明，没有说明的只写[图片]；0 不限",
    )
    caption_after_s: float = Field(
        20,
        ge=0,
        le=86400,
        description="会话安静这么多秒之后，趁空闲给缩小了的旧图各写一句说明（24 token 以内），谁来问都让路；0 不写",
    )
    bot_names: Words = Field((), description="机器人的名字，群里叫到就回复；账号自己的昵称不用写")
    owners: Ids = Field(
        (), description="机器人主人的 QQ 号，可写多个，用逗号隔开；哪个群里都能用全部命令，不受名单和额度限制"
    )
    known_bots: Ids = Field((), description="别的机器人的 QQ 号，可写多个，用逗号隔开；它们说的话记下，不回")
    max_age_s: float = Field(
        300, gt=0, le=604800, description="叫了机器人的消息，轮到它时已经过了这么多秒就不回了，只记下；最简客户端的不看"
    )
    merge_wait_s: float = Field(
        8,
        ge=0,
        le=60,
        description="只有图或只有 @ 的消息，最多等同一个人的下一句多少秒，并成一次回答；0 不等，别的消息最多等 0.4 秒",
    )
    withdraw_replies: Annotated[Literal["on", "off"], BeforeValidator(switch)] = Field(
        "on", description="对方撤回了消息，两分钟内发出的回答也在 QQ 里撤回；off 不撤（记录里总是一起删掉）"
    )


class ObserveSettings(Room):
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="日志级别")
    log_format: Literal["console", "json"] = Field("console", description="日志格式：给人看，或一行一个 JSON")
    log_text: Annotated[Literal["off", "on"], BeforeValidator(switch)] = Field(
        "off", description="on 把群友说的话和回答也写进日志；默认只写谁、哪个群、答没答、为什么、多少 token、多久"
    )
    log_file_mb: float = Field(
        10,
        ge=0,
        le=10240,
        description="data_dir 下 logs/server.log 多大就换一个，MB；0 不写文件。文件总是一行一个 JSON",
    )
    log_files: int = Field(5, ge=1, le=1000, description="换下来的日志文件留几个")


class Settings(Room):
    """Resolved values of every room; built once by ``config.resolve`` and handed down by ``app.py``."""

    server: ServerSettings = Field(default_factory=ServerSettings)
    storage: StorageSettings = Field(default_factory=StorageSettings)
    weights: WeightsSettings = Field(default_factory=WeightsSettings)
    engine: EngineSettings = Field(default_factory=EngineSettings)
    upstream: UpstreamSettings = Field(default_factory=UpstreamSettings)
    cluster: ClusterSettings = Field(default_factory=ClusterSettings)
    generation: GenerationSettings = Field(default_factory=GenerationSettings)
    media: MediaSettings = Field(default_factory=MediaSettings)
    chat: ChatSettings = Field(default_factory=ChatSettings)
    observe: ObserveSettings = Field(default_factory=ObserveSettings)
