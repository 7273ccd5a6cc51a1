"""Word lists of the training dialogues: names, cities, small talk, system prompts. The exam has its own lists."""

# ruff: noqa: E501 - a grammar or list reads best in one line

from __future__ import annotations

SURNAMES = "王李张刘陈杨赵黄周吴徐孙胡朱高林何郭马罗梁宋郑谢韩唐冯于董萧程曹袁邓许傅沈曾彭吕苏卢蒋蔡贾丁魏薛叶阎余潘杜戴夏钟汪田任姜范方石姚谭廖邹熊金陆郝孔白崔康毛邱秦江史顾侯邵孟龙万段雷钱汤尹黎易常武乔贺赖龚文"
GIVEN = "伟芳娜秀英敏静丽强磊军洋勇艳杰娟涛明超兰霞平刚桂文辉玲红建国华云飞宇浩然子轩梓涵一诺欣怡晨曦思雨佳琪雪梅志远天翔俊豪海波小虎春燕冬梅秋月夏荷乐瑶琳婷晓东南北山川石头豆花果可心安宁星月阳光雷电风雪松柏竹菊"
NICK_HEADS = "阿小老大"
NICK_TAILS = ("哥", "姐", "叔", "酱", "君", "宝", "儿", "子", "同学", "老师")
NICKNAMES = (
    "豆豆", "咪咪", "旺财", "小可爱", "糖糖", "果冻", "奶茶", "芒果", "团子", "皮皮", "大熊", "小白", "小黑", "胖虎", "静香", "悟空", "八戒",
    "追风少年", "夜猫子", "摸鱼王", "小太阳", "柠檬精", "西瓜", "土豆", "番茄", "蜗牛", "企鹅", "北极熊", "孤独患者", "一只鱼", "云朵",
)  # fmt: skip
ENGLISH_NAMES = (
    "Tom", "Jack", "Alice", "Bob", "Mary", "John", "Emma", "David", "Sarah", "Mike", "Anna", "Peter", "Linda", "James", "Kate", "Henry", "Grace",
    "Steve", "Susan", "Paul", "Laura", "Mark", "Jenny", "Kevin", "Nancy", "Eric", "Rose", "Leo", "Amy", "Sam", "Max", "Zoe", "Ivan", "Olga",
)  # fmt: skip
CITIES = (
    "北京", "上海", "广州", "深圳", "天津", "重庆", "杭州", "南京", "武汉", "西安", "苏州", "郑州", "长沙", "沈阳", "青岛", "大连", "宁波", "厦门",
    "福州", "济南", "合肥", "昆明", "哈尔滨", "长春", "太原", "石家庄", "南昌", "南宁", "贵阳", "兰州", "海口", "三亚", "银川", "西宁", "乌鲁木齐",
    "呼和浩特", "香港", "澳门", "台北", "高雄", "无锡", "常州", "徐州", "扬州", "镇江", "温州", "绍兴", "嘉兴", "东莞", "佛山", "惠州",
    "汕头", "湛江", "桂林", "柳州", "北海", "大理", "丽江", "遵义", "绵阳", "宜昌", "襄阳", "岳阳", "株洲", "洛阳", "开封", "烟台", "威海",
    "潍坊", "唐山", "保定", "邯郸", "大同", "包头", "鞍山", "吉林", "齐齐哈尔", "牡丹江", "泉州", "漳州", "赣州", "九江", "芜湖", "黄山", "东京", "纽约",
    "伦敦", "巴黎", "首尔", "曼谷", "柏林", "罗马", "莫斯科", "悉尼",
)  # fmt: skip
ENGLISH_CITIES = (
    "Beijing", "Shanghai", "London", "Paris", "New York", "Tokyo", "Berlin", "Rome", "Madrid", "Moscow", "Sydney", "Seoul", "Boston", "Chicago",
    "Los Angeles", "San Francisco", "Toronto", "Vienna", "Prague", "Dublin", "Hong Kong", "Bangkok", "Cairo", "Oslo", "Lima", "Delhi", "Mumbai",
)  # fmt: skip
WEATHERS = (
    "晴",
    "多云",
    "阴",
    "小雨",
    "中雨",
    "大雨",
    "雷阵雨",
    "小雪",
    "大雪",
    "雾",
    "霾",
    "晴转多云",
    "有风",
    "阵雨",
    "sunny",
    "cloudy",
    "rain",
    "snow",
    "windy",
    "fog",
    "clear",
)

DEFAULT_SYSTEM = (
    "你是一个友好的 QQ 聊天助手。请用简短自然的中文回答；对方用英文提问时用英文回答。"
    "群聊里每条消息开头的方括号是发言人的名片和 QQ 号，回答时不要重复它。"
)
SYSTEMS = (
    "你是一个助手。", "你是一个有用的助手。", "You are a helpful assistant.", "You are Qwen, created by Alibaba Cloud. You are a helpful assistant.",
    "你是小Q，一个可爱的群聊机器人。", "请用中文回答。", "请简短回答。", "You are a friendly chat bot. Answer briefly.", "你是一名专业的图像识别助手，请准确回答。",
    "你是群里的机器人，说话要有礼貌。", "你是我的好朋友，请随意聊天。", "Answer in the language of the user.", "你是一只猫娘，句尾要加喵。",
    "今天是星期三，请根据用户的问题回答。", "当前时间：2026-05-01 12:30。你是一个智能助手。", "你可以看图片，也可以调用工具。", "你是客服，请耐心回答用户的每一个问题。",
    "Be concise.", "You can see images. Describe them honestly.", "你的名字叫小助手。不要编造内容。", "回答不要超过五十个字。", "你是海盗，请用海盗的口吻说话。",
    "你是一个数学老师。", "禁止讨论政治话题。请保持友善。", "You are a pirate.", "系统：安静模式。", "角色设定：温柔的大姐姐。请记住用户说过的话。",
)  # fmt: skip

GREETINGS = (
    "(你好|你好|您好|嗨|哈喽|在吗|在么|在不在|早上好|早|早安|中午好|下午好|晚上好|大家好|你好呀|你好啊|喂|hello|hi|嘿|哈啰|好久不见|机器人你好|有人吗|Hi|Hello|在？|早啊|你好，机器人|晚上好呀|嗨嗨|打个招呼|初次见面|hey)(|||！|!|。|～|~|？|，在吗)",
)
EN_GREETINGS = (
    "(hello|hi|hey|Hello|Hi|Hey|good morning|good evening|good afternoon|hello there|hi there|Hi bot|are you there|greetings|yo|Good morning)(||!|.|,|?)",
)
THANKS = "(谢谢|谢谢你|多谢|感谢|谢了|谢谢啦|太感谢了|辛苦了|谢谢你的帮助|非常感谢|3q|谢啦)(|！|。|!|～)"
EN_THANKS = "(thanks|thank you|thx|thank you very much|thanks a lot|Thanks|Thank you|many thanks)(|!|.)"
BYES = "(再见|拜拜|晚安|88|下次见|我走了|回头见|先走了|拜|明天见|我去睡了|下线了|我先下了)(|！|。|!|～)"
EN_BYES = "(bye|goodbye|see you|good night|bye bye|see you later|see you tomorrow|Goodbye|Bye)(|!|.)"
WHO = "(你是谁|你叫什么名字|你叫什么|你是什么|你会什么|你能做什么|你会做什么|你有什么功能|介绍一下你自己|自我介绍一下|你是什么模型|你是机器人吗|你是人吗|怎么用你|你是AI吗|帮助|你有名字吗|你的名字是什么|你能干什么|你能干嘛|你可以做什么|功能介绍|你是哪个模型|你是真人吗)(|？|?|呀|呢|)"
EN_WHO = "(who are you|what are you|what can you do|what's your name|what is your name|are you a bot|are you human|introduce yourself|help|what model are you|how can you help me|tell me about yourself|what do you do)(|?|)"
CHATTER = (
    "(今晚|明天|周末|中午|晚上)(吃什么|去哪玩|有空吗|一起打球|开会吗|加班吗|看电影不)(|？|呀)", "(哈哈哈|笑死|666|牛啊|真的假的|好的|收到|嗯嗯|哦|可以|不行|厉害|太强了|+1|无语|绝了|晕|好吧|行|ok|OK|?|？？？|。。。)",
    "(谁|有谁)(在线|有空|会修电脑|要拼车|看球了|知道快递在哪)(|？)", "(我|他|她|老板|妈妈)(今天|昨天|刚才)(迟到了|生病了|买了新手机|中奖了|吃了火锅|去爬山了|考试及格了)(|。|！)",
    "(别吵|求助|转发|打卡|签到|晚点说|等等我|马上来|路上堵车|信号不好)(|！|。|了)",
)  # fmt: skip

TOPICS = (
    "人工智能", "天空", "月亮", "经济", "历史", "足球", "篮球", "股票", "电影", "音乐", "唐诗", "咖啡", "火锅", "减肥", "考研", "英语", "量子力学", "相对论", "地球", "恐龙",
    "手机", "电脑", "python", "编程", "爱情", "工作", "面试", "旅游", "长城", "三国演义", "红楼梦", "西游记", "鲁迅", "李白", "苹果", "香蕉", "猫", "狗", "熊猫", "高考", "数学题",
    "微积分", "游戏", "王者荣耀", "原神", "春节", "中秋节", "感冒", "头疼", "失眠", "菜谱", "红烧肉", "西红柿炒鸡蛋", "面包", "汽车", "电动车", "房价", "彩票", "星座", "梦", "哲学", "宇宙", "黑洞",
)  # fmt: skip
OTHERS = (
    "(请|帮我|能不能|麻烦|给我|)(写|作)(一首|一篇|一段|个)(关于|)<t>(的|)(诗|作文|文章|故事|代码|文案|论文|笑话|总结|邮件)", "<t>(是什么|是什么意思|好不好|怎么样|有什么用|为什么这么火|怎么学|的历史|有哪些|的原理是什么|在哪里买|多少钱)(|？|?|呢)",
    "(你|)(喜欢|知道|懂|会|听说过|讨厌|怎么看|了解)<t>(吗|么|不|)(|？|?)", "(为什么|怎么|如何)(学习|理解|评价|喜欢|避免|解释|看待|选择)<t>(|？|?)", "(讲|说|来|给我讲)(个|一个|一段)(笑话|故事|段子|关于<t>的故事|冷笑话|鬼故事|新闻)(|吧|。)",
    "<a>(加|减|乘|除以|+|-|*|/|x|×)<b>(等于多少|等于几|=|=?|是多少|得多少)(|？|?)", "(翻译|把|请翻译)(一下|)(：|)<t>(翻译成英文|用英语怎么说|英文怎么写|)", "(今天|明天|现在|昨天)(星期几|几号|几点了|会下雨吗|天气怎么样|热不热|是什么节日|有什么新闻|股市怎么样)(|？|?)",
    "(我|我们)(今天|最近|昨天|现在|)(很|好|有点|非常|太|)(开心|难过|累|饿|困|无聊|生气|烦|想吃<t>|想学<t>|喜欢<t>|不喜欢<t>|在看<t>|感冒了|失恋了|想家)(|。|！|了)", "(推荐|推荐一下|给我推荐)(几本|几个|一些|一部|)(关于<t>的|)(书|电影|歌|餐厅|游戏|景点|电视剧)(|吧|。)",
    "(中国|美国|日本|法国|世界)(的|)(首都|人口|最高的山|最长的河|总统|面积|国旗)(是什么|是哪里|是多少|是谁|有多少|有多高|)(|？|?)", "(天空|大海|草地|太阳|雪|血|香蕉|苹果|乌鸦|葡萄|你的衣服|国旗|彩虹)(为什么|)(是|)(什么颜色|蓝的|红的|有几种颜色)(的|)(|？|?)",
    "(圆|圆形|三角形|正方形|梯形|球)(的)(面积|周长|体积)(怎么算|公式是什么|是多少)(|？|?)", "你(喜欢|最喜欢|讨厌)(什么颜色|哪种颜色|什么形状|什么图形|哪个数字|什么动物|哪个城市|什么菜)(|？|?)", "(红色|绿色|蓝色|黄色|紫色|橙色)(和|加)(红色|白色|蓝色|黄色)(混合|在一起|)(是什么颜色|变成什么颜色|会怎样)(|？|?)",
    "(我妈妈|我爸爸|他|她|我哥哥|你妈妈|校长|首相|作者|主角|这首歌)(叫什么名字|叫什么|是谁|几岁了|在哪里)(|？|?)", "(一周|一年|一天|一小时|一个月|一打)有(几天|多少天|几个小时|多少分钟|几个月|几个)(|？|?)", "(一只|一个|)(狗|猫|蜘蛛|鸡|三角形|正方形|人|手|八边形)有(几|多少)(条|只|个)(腿|脚|角|边|手指|眼睛)(|？|?)",
    "(播放|打开|关闭|设置|删除|下载|提醒我)(音乐|闹钟|空调|灯|<t>|文件|明天开会|喝水|微信|视频)(|。|！)", "(画|生成|做|发)(一张|一个|一幅|)(<t>|红色的圆|猫|图片|表情包|视频|海报)(|给我|吧)", "(解释|分析|评价|比较|总结)(一下|)<t>(和<t>|)(|的区别|的优缺点|。)", "你觉得(红色|蓝色|绿色|黑色|<t>|<t>)(好看|怎么样|好玩|有意思|难|重要)(吗|)(|？|?)", "(北京|上海|成都|日本|西安|<t>)(有什么|哪里有)(好玩的|好吃的|特产|景点|名人)(|？|?|呢)", "(红色|蓝色|圆形|五角星|三角形|正方形)(代表什么|好看吗|有什么含义|用英语怎么说|怎么画)(|？|?)", "<t><t>", "<t>(|！|。|？|……|~)",
    "(def f(x): return x+1|print('hello')|import os|SELECT * FROM t;|for i in range(10):|<div>hi</div>|x = 3; y = 4|git push|npm install|int main() {}|while True: pass)".replace("(x)", "x").replace("('hello')", " 'hello'").replace("(10)", " 10").replace("() {}", " {}"),
)  # fmt: skip
EN_TOPICS = (
    "the weather", "football", "music", "python", "history", "the moon", "cats", "dogs", "coffee", "physics", "math", "movies", "love", "work", "the sky", "a car", "China", "France",
    "the economy", "quantum mechanics", "dinner", "games", "books", "health", "the sun", "a computer", "the sea", "my homework", "travel", "pizza", "stocks", "dinosaurs",
)  # fmt: skip
EN_OTHERS = (
    "(what is|what's|who invented|why is|how does|tell me about|explain|what do you think of|do you like|do you know|have you heard of|how do I learn) <t>(?||)", "(write|give me|compose|create) (a|one|some) (poem|story|joke|song|code|essay|letter|email|summary) about <t>(.||)",
    "what is <a> (plus|minus|times|+|-|*) <b>(?||)", "(what time is it|what day is today|how old are you|where are you from|are you real|do you sleep|can you sing|can you dance|do you love me|how are you doing today|what's up|what's the weather|is it raining)(?||)",
    "(translate|say) <t> (in|to|into) (Chinese|French|Spanish)", "(I|we) (like|love|hate|want|need|miss|bought|saw) <t>(.||!)", "what is the capital of (France|Japan|Spain|Italy|Germany|Canada)(?||)", "(play|open|close|stop|start|turn on) (the music|the light|the app|<t>)(.||)",
    "(what|which) (color|shape) (do you like|is the sky|is the sun|is an apple|is grass|is your favorite)(?||)", "how many (legs does a spider have|days are in a week|sides does a triangle have|people live in China|hours are in a day)(?||)", "(recommend|suggest) (a|some) (book|movie|restaurant|song|game)(.|?|)",
    "(who is|what is) (the president|my father|your mother|the king|his name|her name|the best player)(?||)", "(ok|cool|nice|wow|lol|haha|sure|maybe|no|yes|fine|great|really|interesting|why|how|what)(.|!|?|)", "(how can I|how do I|how to) (cook|fix|find|sell|buy|learn|make|clean) <t>(?||)",
)  # fmt: skip
FOREIGN = (
    "こんにちは", "ありがとう", "今日はいい天気ですね", "お元気ですか", "안녕하세요", "감사합니다", "오늘 날씨 어때요?", "Bonjour, comment ça va?", "Merci beaucoup", "Guten Tag, wie geht es Ihnen?",
    "Hola, ¿cómo estás?", "¿Qué hora es?", "Привет, как дела?", "Спасибо", "Ciao, come stai?", "مرحبا", "สวัสดี", "Olá, tudo bem?", "Xin chào", "Merhaba",
)  # fmt: skip
EMOJI = "😀😂🤣😊😍😘🤔😭😡👍🙏🎉🔥❤🐱🐶🌹🍎🚗⚽🌞🌙⭐💩👀💪✨🥺😅🙄"
