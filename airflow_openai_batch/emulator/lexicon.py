"""The words that the sentiment model knows, with their weights: above zero for praise, below for blame.

English entries are words, mostly in the form that other forms come from (``disappoint``, ``tasty``), and phrases of
words. Korean and Japanese ones are stems, found anywhere in the text, the longest first, so that ``불친절`` is not
taken for ``친절``; a space in front stands for the beginning of a word. An entry that weighs nothing keeps a shorter
one from being found in it: ``진짜`` ("really") is not ``짜`` ("salty").

Short on purpose: a model that is always right would leave an eval nothing to measure.
"""

from __future__ import annotations


def _weigh(weight: float, words: str) -> dict[str, float]:
    """Give all ``words`` one weight. Commas alone separate them: a space is part of its word."""
    return dict.fromkeys(filter(None, words.split(",")), weight)


ENGLISH: dict[str, float] = {
    **_weigh(
        2.0,
        "amazing,awesome,excellent,outstanding,perfect,perfection,superb,fantastic,wonderful,delicious,incredible,"
        "exceptional,phenomenal,best,love,divine,heavenly,heaven,exquisite,magnificent,spectacular,stellar,sublime,"
        "unbeatable,unforgettable,scrumptious,delectable,yummy,mouthwatering,marvelous,marvellous,fabulous,finest,"
        "brilliant,flawless,impeccable,amaze,delish,devour,adore",
    ),
    **_weigh(
        1.5,
        "great,tasty,tastiest,delight,delightful,favorite,favourite,gem,favorites,lovely,terrific,beautiful,recommend,"
        "yum,impress,impressive,gorgeous,thoughtful,treat,succulent,addictive,crave,excel,treasure,superior,memorable,"
        "gracious,fan,wow,exceed,stunning,hospitable,paradise,irresistible",
    ),
    **_weigh(
        1.0,
        "good,nice,friendly,fresh,enjoy,enjoyable,happy,warm,attentive,cozy,cosy,clean,tender,juicy,crispy,flavorful,"
        "flavourful,savory,savoury,worth,worthy,generous,helpful,polite,pleasant,pleased,satisfied,satisfy,satisfying,"
        "charming,charm,welcoming,welcome,quick,positive,kind,prompt,efficient,courteous,knowledgeable,comforting,"
        "homemade,homey,authentic,creamy,fluffy,silky,flaky,moist,hearty,rich,elegant,romantic,relaxing,spacious,"
        "inviting,accommodating,professional,speedy,plentiful,ample,abundant,smile,spotless,lively,tasteful,refreshing,"
        "well,fun,bargain,cheap,perfectly,appetizing,comfortable,comfy,nicest,nicer,pillowy,gooey,aromatic,fragrant,"
        "balanced,cute,special,melt,thank,thanks,glad,consistent,surprise,vibrant,stylish,praise,compliment,smoothly,"
        "patient,hit,winner,popular,inventive,creative,rave,favor,caring,attention,refill,genuine,legit,seasoned,"
        "justify,accommodate,daily,secret,celebrate,rosy,scenic,tempting,zesty,tangy,smoky,buttery,velvety,toasty,"
        "caramelized,grateful,hooked,obsessed,repeat,reliable,upgrade,treasured,sincere,cheerful,gentle,swift,dreamy,"
        "stunned,dazzling,immaculate,hygienic,neat,tidy,roomy,trendy,lush,nourishing,wholesome,filling,appreciate,"
        "congratulate,champion,lovingly,winning,pleasure,joy,lucky,pleasantly",
    ),
    **_weigh(
        0.5,
        "fine,decent,okay,ok,reasonable,affordable,better,fair,liked,solid,easy,convenient,quiet,huge,enormous,quickly,"
        "free,bold,crunchy,crisp,chewy,simple,view,views,recommendable,flavors,smooth,stuffed,variety,calm,hot,value,"
        "piping,visit,quality,sweet,return,regular,local,remember,classic,unique,interesting,family,soft,anniversary,"
        "vegan,choices,healthy,organic,traditional,patio,modern,bright,seasonal,handmade",
    ),
    **_weigh(
        -2.0,
        "terrible,horrible,awful,disgusting,disgust,worst,inedible,atrocious,appalling,dreadful,horrendous,revolting,"
        "abysmal,nasty,pathetic,vile,rancid,nightmare,disaster,unacceptable,roach,roaches,cockroach,unhygienic,vomit,"
        "nauseous,horrid,garbage,trash,scam,lousy,shameful,disgrace,inexcusable,repulsive",
    ),
    **_weigh(
        -1.5,
        "disappoint,disappointment,rude,hate,gross,bland,stale,soggy,dirty,filthy,overprice,overpriced,flavorless,"
        "greasy,avoid,waste,poor,unfriendly,sick,spoiled,rotten,moldy,mouldy,letdown,underwhelming,underwhelm,"
        "outrageous,ruin,ruined,dismissive,arrogant,hostile,unprofessional,incompetent,disrespectful,ignore,insult,"
        "insulting,subpar,rubbery,mushy,grimy,reek,stink,stinky,smelly,unappetizing,downhill,unpleasant,unwelcome,"
        "unsanitary,snippy,snooty,careless,yell,overrated,ripoff,joke,fail,dishonest,uncomfortable,regret,useless,"
        "flavourless,inconsistent,incorrect,undercooked,uncooked,bitter,unfair,unfinished,forgettable,vanish,lied,liar,"
        "scolded,shouted,yelled,argue,sloppy,filth,dishwater,uninspired,clueless,grumpy,surly,condescending,hopeless,"
        "sewage,overpowering,nauseating,miserable,ridiculous,unreasonable,tasteless,diarrhea,cramps,hairs,unedible,"
        "dump,rotting,mold,contaminated,robbery,deceptive",
    ),
    **_weigh(
        -1.0,
        "bad,cold,slow,dry,burnt,burn,overcook,undercook,mediocre,noisy,crowded,expensive,tough,wrong,negative,"
        "unfortunately,lack,lacking,lackluster,boring,complain,complaint,salty,lukewarm,limp,watery,oily,sticky,raw,"
        "chewed,gummy,messy,mess,cramped,chaotic,unimpressed,inattentive,neglect,worse,impatient,refuse,problem,hassle,"
        "meh,sad,sadly,unhappy,dissatisfied,frustrating,frustrate,annoy,annoying,hair,flies,bug,bugs,stain,stained,"
        "unseasoned,overcharge,overwhelmed,hype,hyped,forget,forgot,forgotten,impossible,frozen,microwave,microwaved,"
        "average,misleading,tiny,flat,hard,unclean,pricey,weird,stingy,skimpy,indifferent,apathetic,unorganized,"
        "disorganized,upset,angry,shame,sour,tired,threw,fake,blame,rush,rushed,mistake,torn,broken,slippery,drown,"
        "wilted,brown,shrug,pressured,basically,charred,stiff,pink,coasting,dripping,soaked,blasting,freezing,stuffy,"
        "sweaty,leaking,wobbly,sparse,scarce,skip,demand,stomach,lies,confused,confusing,struggle,excuse,rudeness,"
        "dumped,barely,supposedly,unfilled,understaffed,dated,shabby,rundown,awkward,tourist,trap,unacceptably,missing,"
        "spill,spilled,delay,delayed,cancel,cancelled,canceled,argument,attitude,smoke,noise,clumsy,lumpy,slimy,"
        "crumbly,runny,stringy,gristle,gristly,fatty,curdled,thin,generic,canned,reheated,leftover,overdone,underdone,"
        "oversalted,chilly,painful,hungry",
    ),
    **_weigh(
        -0.5,
        "wait,waited,waiting,smell,smelled,refund,ordinary,late,loud,dark,apology,apologize,nobody,plain,dull",
    ),
    **_weigh(
        0.0,
        "later,lately,hardly,treated,treatment,lovers",
    ),
}
# Of these there can be too much: "too sweet".
ENGLISH_EXCESS: dict[str, float] = _weigh(
    -1.0,
    "sweet,hot,spicy,small,loud,long,oily,many,much,heavy,hard,soft,thick,thin,rich,tiny,few,little,late,often,dark,"
    "bright,busy,fast,short,strong,weak,high,crowded,acidic,tight,close,far,sugary,garlicky",
)
# What follows these isn't so: "could have been great".
ENGLISH_UNREAL = frozenset(
    (
        "could be",
        "could have been",
        "no longer",
        "should be",
        "should have been",
        "used to be",
        "wish",
        "would have been",
    )
)
ENGLISH_PHRASES: dict[str, float] = {
    **_weigh(
        2.0,
        "can't wait,could not be better,couldn't be better,couldn't be happier,couldn't have been better,"
        "couldn't have been nicer,second to none,blown away,can't go wrong,can't be beat,can't beat,can't say enough,"
        "hidden gem,five stars,5 stars,10 10,to die for,above and beyond,nothing but,top notch,hands down,"
        "never disappoints,must try,must visit,look no further,out of this world,better than expected,hit the spot,"
        "well worth,worth the wait,worth every penny,worth the trip,worth it,i like,we like,really like,done right,"
        "knows what,anything but,can't ask for more,couldn't ask for more,can't get enough,kept secret",
    ),
    **_weigh(
        1.5,
        "don't worry,no worries,don't miss,don't skip,without any fuss,don't hesitate",
    ),
    **_weigh(
        1.0,
        "come back,coming back,came back,be back,go back,going back,went back,go to,make up for,makes up for,made up,"
        "can't complain,right away,every week,ice cold,ice cream,0 complaints,on time,wide selection,huge portions,"
        "large portions,big portions,packed with,straight out of,melted in,in no time,as always,all the time,stop by,"
        "so much flavor,full of flavor,well done,felt at home,like home,on point,eat here again,order again,takes care,"
        "took care,you get what you pay for,no need to,fair price,good price",
    ),
    **_weigh(
        -2.0,
        "never again,stay away,not worth,rip off,food poisoning,zero stars,0 stars,one star,1 star,steer clear,"
        "threw up,save your money,don't bother,eat somewhere else,go somewhere else,go elsewhere,eat elsewhere,"
        "couldn't have cared less,couldn't care less,last time,worst enemy,never return,won't return",
    ),
    **_weigh(
        -1.5,
        "once great,once good,save yourself,walked out,mess up,messed up,someone else,over an hour,out of order,"
        "paid for it,never came,never arrived,not impressed,no idea,a fortune,like nothing,shoe leather,from a can",
    ),
    **_weigh(
        -1.0,
        "let down,low quality,used to be,could be,should be,could have been,should have been,would have been,could use,"
        "wish,expected more,expected better,expecting more,nothing special,so so,rolled her eyes,rolled his eyes,"
        "rolled their eyes,sent back,sent it back,no flavor,no taste,no seasoning,zero flavor,no one,not what it was,"
        "isn't what it was,like leather,like cardboard,like rubber,like plastic,fell apart,falling apart,ran out,"
        "better options,better elsewhere,had better,supposed to,no longer,nothing to,an hour,half an hour,"
        "forty minutes,45 minutes,40 minutes,50 minutes,charged us twice,small portions,tiny portions,went down,"
        "gone down,gone downhill,took forever,takes forever,at best,not again,hard to find,big prices,high prices,"
        "what a mess,were out of,was out of,not coming back,i guess",
    ),
    # Nothing to do with what their words say.
    **_weigh(
        0.0,
        "not only,not just,not to mention,no doubt,no wonder,no matter,last but not least,can't help,but also,"
        "well known,as well as,as well,wait staff,kind of,sort of,like to,feel like,felt like,tasted like,looked like,"
        "tastes like,looks like,if you like,would like,i'd like,didn't have to wait,the special,specials,hard rock,"
        "happy hour,hot dog,hot dogs,hot pot,cold beer,cold brew,cold noodles,sweet potato,sour cream,dry aged,"
        "raw fish,raw bar,raw oysters,good luck,first visit,my visit,our visit,this visit,last visit,in return,"
        "soft drinks,hard working,work hard,works hard,worked hard,hit or miss,to remember,sweet and sour,hot and sour,"
        "cold day,cold night,cold winter,cold weather,don't let,if i,of the day,brown rice,brown sugar,brown butter,"
        "thin crust,in the middle of",
    ),
}
KOREAN: dict[str, float] = {
    **_weigh(
        2.0,
        "최고,훌륭,완벽,환상적,감동,대박,인생 맛집,인생맛집,강추,예술,최애,엄지척,압권,황홀,완전 추천,흠잡을 데 없,"
        "흠잡을 데가 없,흠 잡을 데,흠잡을 곳,나무랄 데 없,나무랄 데가 없,더할 나위 없,더할 나위가 없,손색없,손색이 없,"
        "대만족,극찬,반했,반하,끝내줘,끝내주,끝내준,명불허전,둘이 먹다",
    ),
    **_weigh(
        1.5,
        "맛있,맛나,맛난,맛났,맛집,맛잇,마싯,존맛,꿀맛,일품,사랑,별미,JMT,밥도둑,손맛,불맛,감칠맛,별 다섯,별다섯,으뜸,"
        "탁월,뛰어나,뛰어난,최상,알찬,알차,자랑,기대 이상,기대이상,보람,제격,안성맞춤,딱이,딱 좋,변함없,한결같,어김없,"
        "빠짐없,인정,태도가 좋,태도가 친,문제없,절대 후회,절대 실망,이상하게 자꾸,기다려지,기다린 보람,없어서 못,"
        "시간 가는 줄,보물,못지않,못지 않,손이 가,또 가자,챙겨,최고급,맛은 최고,그대로예,그대로네,그대로입,대접받,"
        "멈출 수 없,멈출 수가 없,눈치 안 보",
    ),
    **_weigh(
        1.0,
        "좋,조아,제일,인생 ,만족,추천,친절,신선,싱싱,깔끔,깨끗,청결,푸짐,넉넉,재방문,또 가,또 갈,또 올,또 오,또 먹,"
        "또 방문,또 시,다시 가,다시 갈,다시 올,다시 오,다시 찾,다시 방문,다시 먹,다시 시,자주 가,자주 오,자주 시,"
        "자주 찾,꼭 가,꼭 드,꼭 먹,꼭 다시,단골,부드럽,부드러,바삭,고소,촉촉,담백,쫄깃,탱글,탱탱,아삭,살살 녹,녹아,"
        "녹는,편안,편하,편했,편한,편해,즐거,즐겁,행복,상냥,아늑,쾌적,든든,풍부,풍성,듬뿍,진하고,진해,깊은 맛,국물이 깊,"
        "깊고,깊어,개운,얼큰,세심,꼼꼼,배려,감사,고마,웃으,미소,추억,기분 좋,양이 많,양도 많,양 많,잘하,잘해,잘 해,"
        "잘 먹,잘 어울,잘 챙,잘 구,잘 익,훈훈,정갈,정성,정직,생각나,생각날,매력,중독,값어치,값을 하,값을 해,제대로,"
        "아끼지 않,멋지,멋진,멋있,쏙 들,마음에 들,맘에 들,줄 서서,순식간,싹 비,다 비웠,흡족,훌쩍,향긋,육즙,살아 있,"
        "살아있,강력,번창하,즐기,최신,고급,예약 필수,덕분,걱정 없,맛은 있,맛도 있,집밥,빨라서,금방,은은,직접 ,"
        "까지 다 마,가짓수,만점,환대,반겨,유쾌,센스,조화,균형,부담스럽지,푹 익,노하우,장인,원조,깊이,포근,힐링,소중,"
        "칭찬,흐뭇,기쁘,기뻤,재미있",
    ),
    **_weigh(
        0.75,
        "놀라,놀랐,괜찮,괜춘,무난,가성비,저렴,빠르,빨라,빨랐,빨리 나,착한,착하,착해,따뜻,따듯,뜨끈,시원,예쁘,예뻐,예뻤,"
        "예쁜,이쁘,이뻐,이쁜,귀여,넓,편리,합리적,부담 없,부담없,인기,조용,달콤,새콤,리필,서비스로,배부르,배불,값싸,"
        " 싸고, 싸요, 싸서, 싸게, 싼 ,공짜,여유,세련,분위기 있,뷰가,전망,건강한,기대돼,기대됩,다양,찾아온,나은,낫",
    ),
    **_weigh(
        0.5,
        "가득,유명,매일,생일,기념일,원두",
    ),
    **_weigh(
        -2.0,
        "최악,끔찍,형편없,쓰레기,다시는,두 번 다시,두번 다시,두 번은,두번은,절대,역겨,역겹,토할,식중독,배탈,바퀴벌레,"
        "벌레,머리카락,곰팡이,환불,비추,사기,바가지,호구,영 아니,영 아닌,노답,구역질,가지 마,가지마,신고,불량",
    ),
    **_weigh(
        -1.5,
        "맛없,맛이 없,맛도 없,맛은 없,맛 없,실망,불친절,불쾌,더럽,더러,별로,후회,아깝,아까워,아까웠,아까운,엉망,불만,"
        "불만족,상한,상했,쉰내,쉰 ,비위생,불결,무성의,성의 없,성의없,어이없,어이가 없,황당,짜증,화가 나,화가 났,화나,"
        "화났,화를 내,퉁명,무뚝뚝,싸가지,싸늘,건성,대충,엉터리,낚였,낚인,속은,속았,광고였,기대 이하,기대이하,돈 낭비,"
        "낭비,거품,과대,먹다 남,먹다가 남,남겼,안 갈,안 가,안 올,갈 일 없,못 먹겠,못 먹을,못 먹었,못먹,먹을 수가,"
        "먹을 수 없,인상 쓰,반말,노려,떨어지네,떨어졌,맛이 떨어,질이 떨어,시원찮,절대 추천,사과도 없,사과도 안,"
        "사과 한마디 없,사과 한마디도 없,사과 없,사과조차,좋겠,왜 유명,왜 인기,태도가 별,만족스럽지,맛집이라더니,"
        "맛집이라고 해서,맛집이라 해서,유명하다고,허탈,초심,재사용,못해요,보다 못,못하네,못합니다,쳐다보지,대답도 안,"
        "대답도 없,한 줌,종잇장,불러도,오지 않,안 와,안 오,말라비틀,역한,체했,양심,무례,예의 없,예의가 없,헛걸음,망했,"
        "망쳤,실패,방치,빈약,속이 안,더부룩,먼지,찌든,안 돼,안돼,안 되어,집은 아니,곳은 아니,정이 떨어,정떨어,욕이 나,"
        "기가 차,기가 막히,어설프,집어치,잡쳤,상술,뻔뻔,변명,핑계,전혀 아니,딴판,속지 마,맹물,떡져,떡지",
    ),
    **_weigh(
        -1.0,
        "나쁘,나빴,나빠,나쁜,비싸,비쌌,비싼,비쌉,느리,느렸,느려,느린,짜고,짜서,짜요,짜네,짭니,짰,짠맛,너무 짠,너무 짜,"
        "싱겁,싱거,눅눅,질기,질겼,질겨,질긴,차갑,차가,다 식,식었,식어, 식은,미지근,불편,지저분,누린내,잡내,비린,비려,"
        "비렸,아쉽,아쉬,느끼,퍽퍽,뻑뻑,딱딱,무시,끈적,기름지,기름졌,기름범벅,질척,질퍽,밍밍,맹맹,설익,덜 익,탔,태운,"
        "탄 ,타서,퍼지,퍼졌,퍼진,불어서,불었,불어 ,시들,말라,마른,텁텁,자극적,조미료,밋밋,부실,부족,양이 적,양도 적,"
        "양은 적,양 적,너무 적,양이 작,적은 양,잘못,빠뜨,누락,틀리,틀렸,오래 걸,오래걸,한참,안 나,늦게,늦었,늦어,"
        "시끄러,시끄럽,좁아,좁고,좁은,좁습,힘들,힘든,이상한,이상했,이상하,의심,그저 그,그저그,그냥 그,평범,애매,어중간,"
        "맛은 아니,맛이 아니,맛은 아닌,모르겠,변했,변한,변질,미끄럽,위험,실수,문제,태도가,거만,귀찮,억지,흉내,허접,"
        "초라,냉랭,신맛,쓴맛,너무 달,너무 맵,너무 매,너무 셔,과하,과했,심하,심했,좋았을,불평,최하,비해 ,냉동,해동,새서,"
        "샜,다르더,다릅니다,탄 맛,탄맛,얇,두꺼,땀 흘,에어컨,핸드폰,휴대폰,낡,비좁,답답,정신없,어수선,물컹,흐물,비릿,"
        "오히려,촌스,급식,놓쳤,빼먹,안 주,안 줘,안 했,못 받,늦장,느끼했,잊어,잊고,언성,쏟,깨진,금이 간,흘려,소리를 지,"
        "줄었,줄어,올랐,인상되",
    ),
    **_weigh(
        -0.75,
        "냄새,기다렸,기다려,기다리,웨이팅,보통,흔한,걸렸,걸려서,컴플레인,달라서,다르네,싸움,굳이,차라리,고작,겨우,세워,"
        "어두워,정도예",
    ),
    # Words that hold others.
    **_weigh(
        0.0,
        "진짜,가짜,남편,과일,짜장,냄새가 좋,좋은 냄새,맛있는 냄새,고소한 냄새,잘못 찾,문제 없,이상하게 맛,속은 편,"
        "기다려 지,힘든 줄,벌레 먹,인기척,마른안주,마른 안주,신고 들,탄산,탄수화물,탄력,사기 그릇,신발,굳이 멀,상한선,"
        "사기충,밍밍하지",
    ),
}
JAPANESE: dict[str, float] = {
    **_weigh(
        2.0,
        "最高,絶品,完璧,素晴らし,すばらし,感動,抜群,大満足,大好き,極上,至福,絶妙,名店,大当たり,大ファン,感激,文句なし,"
        "文句のつけ,文句の付け,申し分,非の打ち,間違いな,間違いなし,忘れられない,たまらな,たまりませ,期待以上,想像以上,"
        "期待を超,期待を上回,さすが,流石,必食,イチオシ,一押し,ハズレがな,ハズレな,はずれがな,外れがな,ハズレ無,別格,"
        "好印象",
    ),
    **_weigh(
        1.5,
        "美味し,おいし,美味,うまい,うまかった,うまく,うまうま,旨い,旨かった,旨く,旨味,うま味,旨み,気に入,一番,"
        "お気に入り,とろけ,ほっぺ,ペロリ,ぺろり,完食,幸せ,しあわせ,ファン,やみつき,病みつき,癖にな,クセにな,くせにな,"
        "ハマり,ハマっ,はまっ,価値,甲斐,名物,一流,贅沢,優秀,コスパが良,コスパ最,大正解,正解,虜,ベスト,ナンバーワン,"
        "惚れ,ごちそう,ご馳走,進みま,進む,箸が止ま,止まらな,やめられ,気にならな,気になりませ,待ってでも,それだけの価値,"
        "並んでも,並んででも,普通に美味,普通においし,普通にうま,待つ甲斐,待った甲斐,並ぶ価値,お酒が進,ビールが進,虜に,"
        "長居,すぐに対応,すぐ対応,信じられない安,いくらでも,無限に,言うことな,言うことあ,欠点がな",
    ),
    **_weigh(
        1.0,
        "良い,良かった,良く,良さ,よかった,よい,いい,良し,満足,親切,丁寧,新鮮,清潔,また来,また行,また食べ,また伺,"
        "また利用,また訪,また寄,また通,再訪,リピ,おすすめ,オススメ,お勧め,お薦め,勧めたい,薦めたい,伺いた,通いた,"
        "行きたい,食べたい,訪れた,行きつけ,常連,楽し,嬉し,うれし,落ち着,居心地,綺麗,きれい,キレイ,お得,喜ん,喜び,好き,"
        "好み,優し,やさし,笑顔,気持ちよ,気持ち良,気持ちの良,心地,気配り,気遣い,心遣い,行き届,おもてなし,ありがた,"
        "有り難,ありがとう,感謝,助かり,助かっ,ほっとし,ホッと,癒,ゆっくり,のんびり,ゆったり,くつろ,ぴったり,ピッタリ,"
        "最適,満点,たっぷり,豊富,豊か,充実,ボリューム,こだわり,本格,濃厚,まろやか,コク,コシがあ,香り,風味,上品,繊細,"
        "鮮度,手作り,食べやす,入りやす,使いやす,飽きな,飽きの来,飽きず,スムーズ,迅速,手際,驚き,びっくり,素敵,ステキ,"
        "おしゃれ,お洒落,雰囲気があ,レベルが高,満足度が高,質が高,クオリティが高,高級,評判,人気,納得,おかわり,お代わり,"
        "貴重,活気,景色,眺め,夜景,感じの良,感じが良,感じのい,感じがい,毎日,何度でも,何度も行,何度も通,また頼,絶対また,"
        "熱々,アツアツ,あつあつ,なごやか,和やか,味わい,奥深,安心,家庭的,温もり,いただきまし,人柄,余韻,立ち寄,"
        "サプライズ,甘みがあ,喉ごし,のどごし,足を運,協力,信頼,老舗,隠れ家,穴場,粋な,見事,素朴,懐かし,なつかし,職人,"
        "誠実,明るい,にこやか,気さく,色鮮やか,旬の,朝採れ,産直,会話も楽",
    ),
    **_weigh(
        0.75,
        "柔らか,やわらか,サクサク,さくさく,ふわふわ,ふっくら,もちもち,モチモチ,ぷりぷり,プリプリ,カリカリ,カリッ,"
        "パリッ,パリパリ,しっとり,しっかり,シャキシャキ,とろとろ,トロトロ,ジューシー,肉汁,香ばし,温か,あたたか,"
        "早かった,早く,早い,すぐに出,すぐ出,すんなり,さっぱり,あっさり,安い,安く,安かった,安さ,リーズナブル,お手頃,"
        "手頃,広く,広い,広々,静か,分かりやす,可愛,かわい,食べごたえ,食べ応え,染みて,染み込",
    ),
    **_weigh(
        -2.0,
        "最悪,ひどい,ひどかった,ひどく,ひどす,酷い,酷かった,酷く,二度と,2度と,論外,最低,もう行か,もう行き,もう来,"
        "食中毒,腹痛,お腹を壊,お腹壊,ゴキブリ,虫が,カビ,腐っ,髪の毛,返してほし,返金,騙さ,だまさ,ぼったくり,ボッタクリ,"
        "詐欺,吐き,食べられたものじゃな,食べられたものではな,食べられたもんじゃな,話にな,ありえな,あり得な,有り得な,"
        "許せ,呆れ,あきれ,お世辞にも,二度と行きませ,二度と行かな,二度と来ませ,二度と来な,二度と利用しませ,"
        "二度と利用しな",
    ),
    **_weigh(
        -1.5,
        "不味,まずい,まずかった,まずく,マズ,残念,がっかり,ガッカリ,不親切,不満,不快,不愉快,不衛生,不潔,不誠実,不機嫌,"
        "後悔,汚い,汚れ,汚かった,汚く,臭い,臭かった,臭く,くさい,生臭,横柄,無愛想,ぶっきらぼう,偉そう,えらそう,高圧的,"
        "舌打ち,怒鳴,雑な,雑で,雑だ,雑に,が雑,適当,失礼,無視,イライラ,いらいら,腹が立,期待外れ,期待はずれ,裏切,ハズレ,"
        "はずれ,外れ,失敗,損した,損し,無駄,ムダ,もったいな,勿体な,胃もたれ,気持ち悪,味がしな,味がしま,味がない,落ちた,"
        "落ちまし,味が落,落ちて,劣,クレーム,やる気がな,やる気のな,間違えら,間違われ,リピートはな,リピはな,リピなし,"
        "再訪はな,再訪なし,行かな,行くことはな,おすすめしな,おすすめでき,お勧めでき,オススメでき,オススメしな,拍子抜け,"
        "私語,お腹が痛,放置,合わな,サービスがな,コシがな,気がしな,失望,幻滅,粗末,貧相,貧弱,しょぼ,会話ができな,"
        "会話ができませ,払う価値がな,価値がな,ハエ,異物,感じ悪,感じが悪,感じの悪,聞きに来な,出てこな,詐欺だ,腹立たし,"
        "けんか,ため息,嘘,ウソ,態度が悪,対応が悪,対応も悪,内容ではな,噛み切れな,かみ切れな,不愛想,二度と行,二度と来,"
        "嫌な顔",
    ),
    **_weigh(
        -1.0,
        "悪い,悪かった,悪く,悪す,悪さ,高い,高すぎ,高かった,高く,高め,割高,遅い,遅かった,遅く,遅す,冷め,冷え切,冷た,"
        "ぬるい,ぬるく,ぬるか,硬い,硬かった,硬く,硬す,固い,固く,固かっ,しょっぱ,塩辛,薄い,薄かった,薄く,薄す,濃すぎ,"
        "甘すぎ,辛すぎ,多すぎ,少なす,少な,油っこ,脂っこ,油っぽ,ギトギト,ベタベタ,べたべた,べちゃ,ベチャ,パサパサ,"
        "ぱさぱさ,パサつ,ボソボソ,うるさ,騒がし,待たさ,待たせ,待って,待ちまし,物足りな,微妙,いまいち,イマイチ,今一つ,"
        "今ひとつ,普通,ふつう,平凡,特徴のな,狭い,狭く,狭かった,狭す,伸びて,のびて,焦げ,生焼け,乾い,水っぽ,ありきたり,"
        "冷凍,レトルト,インスタント,煙,気にな,そっけな,素っ気な,知らん顔,愛想がな,愛想のな,態度,来ない,来な,出てきませ,"
        "忘れら,忘れて,謝罪もな,謝罪もありませ,謝罪がな,謝罪の言葉もな,謝りもし,謝らな,期待したほどではな,"
        "期待したほどでな,期待ほどではな,臭み,違うもの,全然違,割に,わりに,それだけ,だけの味,大味,もっと美味,もっとおい,"
        "他の店,ほかの店,改善,疑問,足りな,不足,嫌な,嫌い,嫌だ,嫌で,面倒,手抜き,古い,暗い,つまらな,欠け,食欲がな,"
        "口に合わ,食べきれず,残しま,残して,苦手,荒い,安っぽ,食べられなかった,いい加減,いいかげん,なら良かった,"
        "だったら良,ば良かった,ばよかった,ばいいのに,うまくい,ほこり,埃,茹ですぎ,茹で過ぎ,苦い,苦く,苦か,粉っぽ,べたつ,"
        "べとつ,ベトベト,品切れ,売り切れ,遅れ,間違え,くどい,くどく,しつこ,酸っぱ,えぐみ,獣臭,化学調味料,添加物,値上げ,"
        "シミ,染みが,怖い,怖か,急かさ,急かし,追い出,断られ,わからな,分からな,小さくて,小さい,少量,ちょっとしか,"
        "少しだけ,しかなく,辛いだけ,寒い,寒か,寒く,暑い,暑く,暑か,食べられな,使えな",
    ),
    **_weigh(
        -0.5,
        "待ち時間,混雑,並び,並ん,行列,クセが,せめて,ほしかった,欲しかった,ばかり,席がな,わざわざ,なのかな",
    ),
    # Words that hold others.
    **_weigh(
        0.0,
        "複雑,雑炊,雑穀,いいえ,と言いい,といいな,といいの,ていいの,神経,神社,神戸,精神,期待して行,冷たいビール,"
        "冷たい麺,冷たいそば,冷たい飲,お高く,高校,高円寺,高級感の,普通の味ではな,お待たせし,気になって,人気店,好き嫌い,"
        "ふつうに,一番奥,落ちて込,待ってまで,人気店と聞,評判を聞,古い建物,手作り感,煙突",
    ),
}
