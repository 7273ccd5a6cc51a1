"""Kinds of tools the demo practises with: usual names, descriptions, argument names, and how people ask for them."""

# ruff: noqa: E501 - one tool family, one line per list

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

PLACE_KEYS = ("city", "city", "city", "location", "place", "city_name", "area", "region", "town", "address")
POLITE = "(||||请|帮我|麻烦|请帮我|能不能|请问|想知道|我想|给我|你能|快|帮忙|帮我看看)"


@dataclass(frozen=True)
class Family:
    """Tools that do one thing: their usual names, descriptions, and how people ask for it (<x> is the argument)."""

    names: tuple[str, ...]
    descriptions: tuple[str, ...]
    asks: tuple[str, ...]
    english_asks: tuple[str, ...]
    noun: str
    keys: tuple[str, ...] = PLACE_KEYS


FAMILIES: dict[str, Family] = {
    "weather": Family(
        ("get_weather", "get_weather", "get_weather", "query_weather", "weather_lookup", "weather", "getWeather", "get_current_weather", "check_weather", "city_weather", "fetch_weather", "weather_query", "lookup_weather"),
        ("查询天气", "查询城市的天气", "获取指定城市的天气", "查询某个城市今天的天气情况", "天气查询工具", "查询指定地点的实时天气", "Get the weather of a city", "Get current weather", "Get the current weather in a given location", "Look up the weather", "Returns the weather for a city."),
        ("<x>(今天|现在|明天||||)(的|)(天气)(怎么样|如何|好吗|咋样|好不好|是什么样|情况|呢|)", f"{POLITE}(查|查询|查一下|查下|看一下|看下|看看|查查|告诉我|问问||)<x>(今天|现在||)(的|)天气(情况|)(|吧|吗|好吗)", "<x>(今天|明天|现在|)(下雨吗|会下雨吗|冷吗|热吗|热不热|多少度|几度|气温多少|温度是多少|会下雪吗|是晴天吗|要带伞吗)", "(今天|现在|)<x>(的|)(天气|气温)(怎么样|如何|咋样|多少)", "(我要去|我在|我明天去|我想去)<x>，(天气怎么样|那边天气如何|那里热吗|查一下天气|要带伞吗)", "(天气怎么样|天气如何|天气)(，|：|？)<x>", "(我想知道|请用工具查一下|用工具查查|问一下|跟我说说|想了解|看下|说说)<x>(今天|现在|)(的|)天气(如何|怎么样|情况|)", "<x>(今天|明天|)(热不热|冷不冷|有雨吗|下不下雨)", "<x>(现在|现在|今天|)(多少度|几度|气温多少|冷吗|热吗)",
         "<x>(那边|那里|那儿|这边|当地|市区|附近|这几天|这会儿|周末|后天|今晚|今早|下午|晚上|最近)(的|)天气(怎么样|如何|好吗|咋样|好不好|怎样|呢|)(啊|呀|哦|嘛|)",
         "<x>(今天|今儿|明儿|明天|后天|周末|)(的|)天气(好吗|怎么样|如何|咋样|好不好)(啊|呀|呢|嘛|，要带伞吗|，能出门吗|，适合跑步吗|，能晒被子吗|，可以去爬山吗|，穿什么好|，谢谢|，在线等)",
         "(我|我们|咱们|我爸妈|朋友|老板|同学)(明天|后天|周末|下周|今晚|月底|马上|早上|中午|等下|)(到|去|来|飞|回|路过|要去|准备去|打算去|出发去)<x>(玩|出差|旅游|开会|过年|)(，|,| |)(那边|那儿|当地|这几天|)(天气怎么样|天气好吗|天气如何|会下雨吗|冷不冷|热不热|适合出门吗|要带伞吗|天气好不好)",
         f"{POLITE}(发一下|给我|看看|说一下|播报一下|来一份|报一下|念一下|看一眼|查)(今天|)<x>(的|)(天气预报|实时天气|天气情况|今日天气|气象信息|天气)(吧|呗|好吗|)", "<x>(的|)(天气预报|实时天气|气象|今日天气)(|是什么|怎么说|给我看看|发我)",
         "(老样子|那个|嗯|对了|诶|小助手|机器人|在吗|急)(，|,| )<x>(的|)天气(怎么样|如何|呢|咋样|)"),
        ("(what is|what's|how is|how's|tell me|check|get) the weather (like |)in <x>( today| now| right now| tomorrow|)", "(weather in|weather for|current weather in|weather at) <x>( please| now| today|)", "is it (raining|cold|hot|sunny|warm|snowing) in <x>( now| today|)", "(what is|what's) the temperature in <x>", "(please |can you |)(check|look up|find) the weather (for|in|of) <x>", "what is the weather in <x>", "i (want|would like) to know the weather in <x>", "how (hot|cold|warm) is it in <x>( today|)", "weather (in|for) <x>( please| today|)",
         "(hi|hello|so|um|please|ok|well|yo|sorry|by the way)(, | )(how is|how's|what is|what's) the weather (like |)(in|over in|down in|up in|around|near|at) <x>( today| now| this week| this morning| tonight|)",
         "(would|can|will) you (please |)(tell me|show me|give me|check|find out) (the weather|the forecast|the weather forecast|today's weather) (in|for|of|at) <x>( today| now|)",
         "what (is|will) the weather (be |)(like |)(tomorrow|tonight|now|right now|this week|) in <x>", "(i am|we are|my friend is) (going|flying|travelling|moving) to <x>( tomorrow| today| next week| soon|), (how is|what is|check) the weather( there|)",
         "how is <x>'s weather( today|)", "<x> weather( forecast| today| please|)", "(do i need an umbrella|should i wear a coat|can i go out) in <x>( today| tomorrow|)"),
        "weather",
    ),
    "time": Family(
        ("get_time", "get_local_time", "get_current_time", "current_time", "query_time", "time_lookup", "get_local_time", "world_clock"),
        ("查询城市的当前时间", "获取某地现在的时间", "世界时钟", "Get the local time of a city", "Current time in a place"),
        ("<x>(现在|那边现在|那边|那里|当地|这会儿|)(几点了|几点|是几点|的时间是多少|的时间|是什么时间)(|呢|啊|呀)", f"{POLITE}(查|查询|查一下|告诉我)<x>(现在|)的(时间|当地时间)", "现在<x>(几点|是几点|几点了)"),
        ("what time is it in <x>( now|)", "(what is|what's|tell me) the (time|local time) in <x>", "(current time|time) in <x>"),
        "time",
    ),
    "air": Family(
        ("get_air_quality", "air_quality", "query_aqi", "get_aqi"),
        ("查询空气质量", "获取城市的空气质量指数", "Get the air quality of a city"),
        ("<x>(今天|现在|)(的|)(空气质量|空气)(怎么样|如何|好不好|好吗)", f"{POLITE}(查|查询|查一下)<x>的(空气质量|空气指数)"),
        ("(how is|what is|check) the air quality in <x>", "is the air good in <x>"),
        "air_quality",
    ),
    "city": Family(
        ("search_city", "city_info", "get_population", "query_city"),
        ("查询城市的人口和介绍", "搜索城市信息", "Get information about a city"),
        ("<x>(有多少人口|的人口是多少|人口多少|的城市信息)", f"{POLITE}(查|搜索|介绍|查一下)<x>的(人口|信息|资料|城市信息)"),
        ("what is the population of <x>", "(search|find|get) (information|info) (about|on) <x>"),
        "city_info",
    ),
    "search": Family(
        ("search", "web_search", "search_web", "google_search", "query_knowledge", "search_docs", "find_document"),
        ("搜索网页", "在互联网上搜索", "搜索关键词", "Search the web", "Search for a query"),
        (f"{POLITE}(搜索|搜一下|搜搜|搜|在网上搜索)(：|一下||)<x>", f"{POLITE}(找|找到|找一下|找找)<x>(的资料|的介绍|的例子|的代码|)"),
        ("(search for|search the web for|google|look up on the web) <x>",),
        "web",
        ("query", "query", "q", "keyword", "keywords", "text"),
    ),
}  # fmt: skip
KEY_DESCRIPTIONS = (
    "城市",
    "城市名",
    "城市名称",
    "城市名称，如北京",
    "地点",
    "City name",
    "The city",
    "city, e.g. Beijing",
    "The name of the city",
    "关键词",
    "",
)
EXTRAS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("unit", {"type": "string", "enum": ["celsius", "fahrenheit"]}),
    ("unit", {"type": "string", "enum": ["c", "f"], "description": "温度单位"}),
    ("date", {"type": "string", "description": "日期"}),
    ("lang", {"type": "string", "description": "language"}),
    ("days", {"type": "integer", "description": "天数"}),
)
