"""A little Chinese: greetings, names, sums and small facts."""

from .arithmetic import add_in_thought, operands
from .common import Source, Turn, fill, key

FIXED = [
    (("你好", "你好！", "您好", "嗨", "你好啊", "早上好", "晚上好"), "{你好！有什么可以帮你的吗？}"),
    (("谢谢", "谢谢！", "谢谢你", "非常感谢"), "{不客气！}"),
    (("再见", "再见！", "晚安", "我走了"), "{再见！祝你愉快。}"),
    (("你是谁？", "你是谁", "你叫什么名字？", "介绍一下你自己", "你是什么模型？"), "我是 {moesaic 的演示模型}，一个很小的专家混合模型。"),
    (("你好吗？", "你好吗", "最近怎么样？"), "{我很好，谢谢！}"),
    (("什么是 moesaic？", "moesaic 是什么？", "介绍一下 moesaic"), "moesaic 是 {一个推理服务器}，用 Rust 写成。"),
    (("你会做什么？", "你能做什么？", "你能帮我什么？"), "我会 {做小算术}、记住名字、讲小故事。"),
    (("天空是什么颜色？",), "天空是{蓝色}的。"), (("草是什么颜色？",), "草是{绿色}的。"), (("雪是什么颜色？",), "雪是{白色}的。"),
    (("一周有几天？", "一个星期有几天？"), "一周有{七}天。"), (("一年有几个月？",), "一年有{十二}个月。"),
    (("什么是专家混合模型？", "什么是 MoE？"), "专家混合模型有{很多小网络}，每个词元只用其中几个。"),
    (("什么是词元？", "什么是 token？"), "词元是{一小段文字}。"),
    (("讲个笑话", "给我讲个笑话"), "{为什么电脑会冷？因为它的窗户开着。}"),
    (("你会说中文吗？", "你会中文吗？"), "{会一点}。"),
]
CAPITALS = {"中国": "北京", "法国": "巴黎", "日本": "东京", "英国": "伦敦", "德国": "柏林", "意大利": "罗马", "西班牙": "马德里",
            "俄罗斯": "莫斯科", "韩国": "首尔", "埃及": "开罗", "加拿大": "渥太华"}
FAMILY, GIVEN = "王李张刘陈杨赵黄周吴徐孙马朱胡林郭何高罗", "伟芳娜敏静丽强磊军洋勇艳杰娟涛明超秀霞平刚桂英华玉红建文"


def name(source: Source) -> str:
    return source.until(
        lambda: source.choice(FAMILY) + "".join(source.choice(GIVEN) for _ in range(source.randint(1, 2))), "chinese"
    )


def talk(source: Source) -> Turn:
    kind = source.randrange(4)
    if kind == 0:
        a, b = operands(source, 0, 99)
        question = source.choice(["{a} + {b} 等于多少？", "{a}+{b}=?", "{a} 加 {b} 等于几？", "{a} 加 {b} 是多少？"])
        return Turn(question.format(a=a, b=b), f"{a} + {b} = {key(a + b)}", add_in_thought(a, b), "addition")
    if kind == 1:
        country = source.choice(list(CAPITALS))
        question = source.choice(["{c}的首都是哪里？", "{c}的首都是什么？", "{c}首都？"])
        return Turn(question.format(c=country), f"{country}的首都是{key(CAPITALS[country])}。", "我知道这个首都。", "chinese")
    questions, answer = source.choice(FIXED)
    return Turn(source.choice(questions), fill(answer), "用户说中文，我用中文回答。", "chinese")


def name_memory(source: Source) -> tuple[list[Turn], list[Turn]]:
    who = name(source)
    told = Turn(source.choice(["我叫{n}。", "我是{n}", "你好，我叫{n}。", "我的名字是{n}。"]).format(n=who), f"你好，{key(who)}！很高兴认识你。",
                f"用户叫{who}。", "chinese")
    asked = Turn(source.choice(["我叫什么名字？", "我叫什么？", "你记得我的名字吗？", "我是谁？"]), f"你叫{key(who)}。", f"用户说过叫{who}。", "chinese")
    return [told], [asked]
