"""How people ask: grammars of questions about pictures, names and remembered things, in Chinese and simple English."""

# ruff: noqa: E501 - a grammar or list reads best in one line

from __future__ import annotations

POLITE = "(||||||你觉得|你认为|你说|我想知道|@机器人 |@小助手 请问|请问一下，|麻烦看一下，|帮我看看|你好，|你看，|看看|看图，|告诉我|请告诉我，|请回答：|那|那么|嗯，|哎，|机器人，|小助手，|能告诉我|想问一下)"
TAIL = "(|||||呢|呀|啊|吗|嘛|来着|哦)"
THING = "(|这|这个|这个东西|这个图形|它|图里|图中|图上|图片里|图片中|这张图|这张图里|这张图片|这幅图|这幅画|图里的东西|图里的<shape>|图中的<shape>|这个<shape>|画面里的物体|图中物体|里面的图形|图里画的|照片里的东西|我发的图|这图|那个东西)"
EN_POLITE = (
    "(||||||@机器人 |@小助手 please tell me, |hi, |hey, |can you tell me, |look, |so |ok, |tell me, |now, |bot, |um, )"
)
EN_TAIL = "(||||| please| here| now)"
EN_THING = "(this|it|that|the <shape>|the object|the shape|this object|this picture|the picture|the thing|this thing|this <shape>|the image|the figure)"

COLOUR = (
    f"{POLITE}{THING}(是|是|)(什么|什么|啥|哪种|哪个|什么样的)(颜色|颜色|色)(的|){TAIL}",
    f"{POLITE}{THING}(的颜色|颜色)(是什么|是啥|是哪种|是哪一种|是|叫什么|怎么说){TAIL}",
    f"{POLITE}(什么颜色|啥颜色|颜色|颜色是什么|是什么颜色的|哪种颜色|颜色呢|它的颜色|说出颜色|什么色|啥色儿|认一下颜色|这颜色是)",
    f"{POLITE}(说说|说一下|讲讲|识别一下|判断一下|辨认|看一下){THING}(的颜色|是什么颜色|颜色)",
    "(你)(能|可以)(看出|看到|认出|分辨出){THING}(是什么颜色|的颜色)(吗|么|)".replace("{THING}", THING),
    f"{POLITE}{THING}(是|)(红|绿|蓝|黄|黑|白|紫|橙)(色|色的|的)还是(红|绿|蓝|黄|黑|白|紫|橙)(色|色的|的){TAIL}",
    f"{POLITE}{THING}(涂|画|染)(的是|成了|成|了)(什么|啥|哪种)(颜色|色){TAIL}",
)
SHAPE = (
    f"{POLITE}{THING}(是|是|)(什么|什么|啥|哪种|哪个|什么样的)(形状|形状|图形|样子|几何图形|几何形状)(的|){TAIL}",
    f"{POLITE}{THING}(的形状|形状)(是什么|是啥|是哪种|是哪一种|是|叫什么){TAIL}",
    f"{POLITE}(什么形状|啥形状|形状|形状是什么|是什么形状的|哪种图形|形状呢|它的形状|什么图形|是什么图形|画的是什么图形|画了什么图形|画的什么形状)",
    f"{POLITE}(说说|说一下|讲讲|识别一下|判断一下|辨认|看一下){THING}(的形状|是什么形状|形状|是什么图形)",
    "(你)(能|可以)(看出|看到|认出|分辨出){THING}(是什么形状|的形状|是什么图形)(吗|么|)".replace("{THING}", THING),
    f"{POLITE}{THING}(是|)(圆形|圆的|正方形|方的|三角形|五角星|星星)还是(方形|方的|三角形|圆形|星形|五角星){TAIL}",
    f"{POLITE}{THING}(有|画着|画了|画的是|显示的是)(什么|啥|哪种|一个什么)(形状|图形){TAIL}",
)
WHAT = (
    f"{POLITE}(这|这个|它|图里|图中|图上|图片里|这张图|这张图里|这张图片|这幅图|里面|画里|照片里|我发的图)(是|是|有|有|画的是|画了|显示的是)(什么|什么|啥|什么东西|些什么)(东西|){TAIL}",
    f"{POLITE}(描述|描述一下|介绍一下|说说|讲讲|形容一下|说明|概括)(这张图|这张图片|图片|图里的内容|这幅图|图片内容|它|这个|图中的内容|你看到的|)",
    f"{POLITE}(看到了什么|你看到了什么|你看见什么了|能看到什么|看得到图吗|看到图了吗|看到什么|看图|认一下这个|识别图片|识别一下|看看这个|你看这个|看这个|这啥|啥东西|这是啥玩意|图片里有什么内容|图里有什么)",
)
# What the server asks when it writes a picture's caption.
CAPTION_WISH = "用一句话描述这张图，不超过二十个字。"
COUNT = (
    f"{POLITE}(图里|图中|图上|图片里|图片中|这张图里|这张图|这里|这幅图里|里面|画面中|画里|这|一共|总共|)(一共|总共|共|)(有|有|有|)(几|几|多少)(个|个|个|颗)(<shape>|<shape>|<colour>的<shape>|<colour><shape>|图形|物体|东西|形状){TAIL}",
    f"{POLITE}(<shape>|<shape>|<colour>的<shape>|图形|物体|东西)(有|一共有|总共有|的数量是|的个数是|数量是)(几个|多少个|多少|几){TAIL}",
    f"{POLITE}(数一数|数数|数一下|数一数图里|数数看|帮我数一下|请数一下|数一下图中)(有几个|有多少个|一共几个|)(<shape>|<colour>的<shape>|图形|物体)",
    f"{POLITE}(有几个|几个|多少个|一共几个|总共多少个|有多少|数量是多少|数量|有几个呢|个数是多少|图里有几个)",
)
EN_COLOUR = (
    f"{EN_POLITE}(what|which|what) (color|colour) is {EN_THING}{EN_TAIL}",
    f"{EN_POLITE}(what is|what's|whats) the (color|colour)( of {EN_THING}||){EN_TAIL}",
    f"(tell me|name|say|describe|identify|i want to know) (the|its) (color|colour)( of {EN_THING}|)",
    f"{EN_POLITE}(what color|color|which color|what colour|the color|its color|and the color|what about the color|in what color)",
    "is (it|this|the object) (red|green|blue|yellow|black) or (white|purple|orange|red|blue)",
    f"(can|could) you (tell me|see|name) (the color|what color {EN_THING} is|what colour it is)",
    f"what (color|colour) (do you see|can you see|are the <shapes>|are they|does {EN_THING} have|is used|is shown)( in the picture|)",
)
EN_SHAPE = (
    f"{EN_POLITE}(what|which|what) shape is {EN_THING}{EN_TAIL}",
    f"{EN_POLITE}(what is|what's|whats) the shape( of {EN_THING}||){EN_TAIL}",
    f"(tell me|name|say|describe|identify) (the|its) shape( of {EN_THING}|)",
    f"{EN_POLITE}(what shape|shape|which shape|the shape|its shape|and the shape|what about the shape|what kind of shape is this|what figure is this)",
    "is (it|this|the shape) a (circle|square|star) or a (triangle|square|circle)",
    f"(can|could) you (tell me|see|name) (the shape|what shape {EN_THING} is|what shape it is)",
    "what (shape|kind of shape|figure|geometric shape) (do you see|can you see|is in the picture|is drawn|is shown|is there|does it have|are they)",
)
EN_WHAT = (
    f"{EN_POLITE}(what is|what's|whats) (this|it|that|in the picture|in this picture|in the image|in this image|shown here|this picture|here|drawn here){EN_TAIL}",
    "(describe|please describe|explain|can you describe) (this|it|the picture|this picture|the image|this image|what you see)",
    "(what do you see|what can you see|do you see it|look at this|see this|what did i send|what am i looking at|what is shown|tell me what you see)( here| in the picture|)",
)
EN_COUNT = (
    f"{EN_POLITE}how many (<shapes>|<shapes>|<colour> <shapes>|objects|shapes|things|figures|of them)( are there| are in the picture| do you see| can you see| are here| in the image| are in this image| are shown|){EN_TAIL}",
    "(count|please count|can you count) (the <shapes>|the <colour> <shapes>|the objects|the shapes|them|how many <shapes> there are)( in the picture| for me|)",
    "(what is|what's|tell me) the (number|count) of (<shapes>|objects|shapes)( in the picture| in this picture|)",
    f"{EN_POLITE}(how many|how many are there|how many in total|and how many)",
)

# Which of several pictures: "第<n>张" style words go in front of a question about colour, shape, content or number.
NTH = "(第<n>张|第<n>张图|第<n>张图片|第<n>张图里|第<n>张图中|第<n>幅图|第<n>幅|第<n>个图|图<n>|第<n>张照片|<n>号图)(的图形|的东西|中的<shape>|里的<shape>|里面的物体|||||)"
FROM_THE_END = "(倒数第<n>张|倒数第<n>张|倒数第<n>张图|倒数第<n>张图片|倒数第<n>个图|从后往前数第<n>张|往回数第<n>张图|倒着数第<n>张)(的图形|的东西|里的<shape>|里面的物体|||||)"
LATEST = "(刚才那张图|刚才的图|刚才那张|刚刚那张图|刚才我发的图|刚发的图|上一张图|上张图|上面那张图|前面那张图|之前那张图|之前的图片|之前发的图|我刚才发的图片|刚才图里|刚才图片里|刚才那幅图|刚才那张图片|那张图|那张图片|我发给你的图|最后一张图|最后那张|前面发的图片|刚刚的图片里|之前图里|还记得刚才的图吗，它|还记得那张图吗？它|回到刚才的图，它)(的东西|的图形|的<shape>|里的<shape>|里的东西||||||)"
EARLIEST = "(第一张图|第一张|最开始那张图|最早的图|最早那张图|一开始的图|一开始发的图|最先发的图|最初那张图|第一次发的图|最早发的图片)(里的东西|的图形|||||)"
NTH_COLOUR = (
    "(是|)(什么|啥|哪种|哪个)(颜色|颜色|色)(的|)",
    "(的颜色|颜色)(是什么|是啥|是|呢|)",
    "(是|)(什么|啥)颜色(呢|呀|啊|来着)",
)
NTH_SHAPE = (
    "(是|)(什么|啥|哪种|哪个)(形状|图形)(的|)",
    "(的形状|形状)(是什么|是啥|是|呢|)",
    "(是|)(什么|啥)形状(呢|呀|啊|来着)",
)
NTH_WHAT = ("(是|有|画的是|画了)(什么|啥|什么东西)(呢|呀|啊|)", "(呢|有什么|是啥|画的啥|是什么内容|描述一下)")
NTH_COUNT = (
    "(有|一共有|里有|中有)(几|多少)个(<shape>|图形|物体|东西)(呢|呀|)",
    "(有几个|有多少个|里有几个|几个)(<shape>|图形|)",
)
EN_NTH = "(the <nth> (picture|image|photo|one|drawing)|the <nth> (picture|image|one)|the <nth> of them|(picture|image) <number>)"
EN_FROM_THE_END = "(the (<nth>-last|<nth> last|<nth> to last|<nth>-to-last) (picture|image|photo|one)|the <nth> (picture|image|one) from the end)"
EN_LAST = "the (last|latest|final|newest|very last) (picture|image|photo|one)"
EN_LATEST = "(the (last|previous|earlier|latest) (picture|image|photo|one)|the (picture|image|photo) (i sent|i sent you|i sent earlier|from before|above|i showed you|before|i just sent)|that (picture|image|photo)|my (picture|image|photo|last picture))"
EN_EARLIEST = "(the first (picture|image|photo|one)|the earliest (picture|image)|the (picture|image) i sent first|the very first picture)"
EN_NTH_COLOUR = (
    "(what|which) (color|colour) (is|was) (|the <shape> in |the object in |the thing in )<which>",
    "(what is|what's|what was) the (color|colour) (of|in) <which>", "(and|what about) the color of <which>", "<which>, what color is it",
    "in <which>, what color (is the <shape>|is it|do you see)", "tell me the color (of|in) <which>",
)  # fmt: skip
EN_NTH_SHAPE = (
    "(what|which) shape (is|was) (|the object )in <which>", "(what is|what's|what was) the shape (of|in) <which>", "<which>, what shape is it",
    "in <which>, what shape (is it|is shown|do you see)", "tell me the shape (of|in) <which>", "what shape (is|was) <which>",
)  # fmt: skip
EN_NTH_WHAT = (
    "(what is|what's|what was) (in|on) <which>",
    "(describe|what about|what does) <which>",
    "what did <which> show",
    "what was <which>",
)
EN_NTH_COUNT = (
    "how many (<shapes>|objects|shapes) (are|were) (in|on) <which>",
    "(count the <shapes> in|how many in) <which>",
)
FOLLOW_COLOUR = "(那|那么|)(它|这个|)(是什么颜色|颜色呢|的颜色|什么颜色|是啥颜色|颜色是什么)(呢|的|)"
FOLLOW_SHAPE = "(那|那么|)(它|这个|)(是什么形状|形状呢|的形状|什么形状|是啥形状|形状是什么)(呢|的|)"
BOTH_COLOUR = "(两张图|这两张图|这两张图片|两张)(分别|各|)(是什么颜色|是啥颜色|的颜色是什么|什么颜色)"
BOTH_WHAT = "(两张图|这两张图|这两张图片|两张)(分别|各|)(是什么|有什么|画了什么|是啥|里有什么)"
EN_BOTH_COLOUR = "(what are the colors of|what colors are|tell me the colors of) (the two pictures|both pictures|these two images|the pictures)"
YES_NO = f"{POLITE}(这|这个|它|图里的<shape>|这个图形|图里的东西|这张图)(是不是|是|真是|应该是)<colour>(的|)(吗|吧|么|)"
YES_NO_SHAPE = f"{POLITE}(这|这个|它|图里的东西|这个图形)(是不是|是|真是|应该是)(一个|个|)<shape>(吗|吧|么|)"
EN_YES_NO = f"{EN_POLITE}is (it|this|that|the <shape>|the object) <colour>"
EN_YES_NO_SHAPE = f"{EN_POLITE}is (it|this|that) a <shape>"

TELL_NAME = (
    "(你好，|嗨，|那个，|哈喽，|对了，|我来自我介绍一下，|认识一下，||||)(我叫|我叫|我叫做|我的名字是|我的名字叫|我名字叫|叫我|你可以叫我|请叫我|我是|记住我叫|记住，我叫|请记住我的名字：|请记住我叫|我的昵称是|大家都叫我|朋友们叫我|以后叫我|本人|我的名字：|名字是)<name>(|||||吧|哦|就行|就好|，请记住|，记住了吗|，你呢|，很高兴认识你|，请多关照|，别忘了|，记一下)",
    "(我改名了，|我改名叫|不对，我叫|说错了，我叫|其实我叫|从现在起我叫|以后我叫)<name>",
)
TELL_ENGLISH_NAME = (
    "(hi, |hello, |hey, |by the way, |||||)(my name is|my name is|my name's|i'm|i am|I'm|I am|call me|you can call me|please call me|just call me|remember that my name is|remember, my name is|My name is|the name is|they call me|everyone calls me|people call me) <name>(|||, remember it|, please remember|, nice to meet you| by the way|, and you)",
)
ASK_NAME = (
    f"{POLITE}(我叫什么名字|我叫什么|我叫啥|我的名字是什么|我的名字叫什么|我是谁|我叫啥名字|我名字是什么|我的名字是啥|我的名字|我是叫什么来着|我叫什么来着|怎么称呼我|该怎么叫我|我刚才说我叫什么|我之前说我叫什么|我告诉过你我叫什么|你应该叫我什么|我叫什么名字来着|我姓甚名谁|我的名字你说一下|说出我的名字|我的昵称是什么|我是哪位)(|||呢|呀|啊)",
    "(你|)(还|)(记得|知道|记不记得|知不知道|记住|没忘记)(我叫什么名字|我叫什么|我是谁|我的名字|我叫啥|我的名字是什么)(吗|么|不|了吗|)",
)
ASK_ENGLISH_NAME = (
    f"{EN_POLITE}(what is my name|what's my name|whats my name|who am i|do you remember my name|do you know my name|what am i called|what did i say my name was|tell me my name|say my name|what was my name|can you remember my name|remember my name|do you still remember my name|do you know who i am|my name is what|what should you call me)",
)
FACTS = (
    "暗号",
    "密码",
    "口令",
    "幸运数字",
    "代号",
    "房间号",
    "车牌号",
    "验证码",
    "学号",
    "编号",
    "数字",
    "门牌号",
    "电话",
    "座位号",
    "关键词",
    "秘密",
    "座右铭",
    "家乡",
    "生日",
    "城市",
    "编码",
    "钥匙",
    "昵称号",
)
PET_FACTS = (
    "我的猫",
    "我的狗",
    "我家的猫",
    "我家的狗",
    "我的同桌",
    "我的老师",
    "我弟弟",
    "我妹妹",
    "我的宠物",
    "我朋友",
)
EN_FACTS = (
    "code",
    "secret code",
    "password",
    "lucky number",
    "secret word",
    "room number",
    "number",
    "pin",
    "keyword",
    "magic word",
    "seat number",
)
TELL_FACT_2 = (
    "(请|帮我|你|||)(记住|记一下|记下|记好)(这个|我的|今天的||)<fact>(：|:| |，||是)<value>(||，谢谢|，别忘了)"
)
ASK_FACT_3 = "(我|刚才|刚才我|我之前)让你(记住|记|记下)的<fact>是(什么|多少|几|啥)"
EN_TELL_FACT_2 = "(please |)remember (this|the|my) <fact>(:|) <value>"
TELL_FACT = "(请记住|记住|帮我记住|请记一下|记一下|记住了，|你记一下|听好了，|对了，|||)(，|：||)(我的|今天的|我们的||)<fact>(是|是|为|：|是：)<value>(||||，记住了吗|，别忘了|，记住)"
ASK_FACT = f"{POLITE}(刚才的|我的|今天的|之前的|我们的|刚才说的||||)<fact>(是什么|是多少|是啥|是什么来着|是几|是哪个|呢|是){TAIL}"
ASK_FACT_2 = "(你|)(还|)(记得|知道)(我的|刚才的|)<fact>(吗|是什么吗|是多少吗|是什么|是多少)"
TELL_PET = "(|记住，|告诉你，|对了，)<fact>(叫|叫做|的名字叫|的名字是)<value>(|||，记住哦)"
ASK_PET = "(你记得|你知道|请问|那||||)<fact>(叫什么|叫什么名字|叫啥|的名字是什么|名字叫什么)(|||来着|呢|吗)"
EN_TELL_FACT = "(remember: |please remember: |please remember that |remember that |remember |||)(the|my) <fact> is <value>(||, remember it|, keep it in mind)"
EN_ASK_FACT = f"{EN_POLITE}(what is|what's|what was|tell me|do you remember|say) (the|my) <fact>{EN_TAIL}"
