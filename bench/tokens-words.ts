// Chinese and Japanese put together from words: nobody's text, and as much of it as is wanted, no clause twice for long.

/** Words of one place in a clause, `|` between them. */
const list = (words: string): readonly string[] => words.split('|')

const chinese = {
  opening: list(
    '去年|最近|事实上|一般来说|昨天晚上|在会议上|到目前为止|从长远来看|随着技术的发展|为了解决这个问题|与此同时|在很多情况下|三个月以前|根据调查|' +
      '在实际工作中|不久之后|如果条件允许|除此之外|令人惊讶的是|按照计划|在这种背景下|每到周末|天气转冷以后|尽管时间不多|经过反复试验'
  ),
  subject: list(
    '我们|他们|这家公司|研究人员|许多用户|学生们|当地居民|工程师|政府|专家|客户|那位作家|这个系统|新的方案|编辑部|年轻的父母|项目组|图书馆|医院|农民|游客|' +
      '他的朋友|开发团队|两位老师|邻居|记者|艺术家|整个行业|志愿者|船长|消费者|这本书|数据库|委员会|设计师|司机'
  ),
  manner: list(
    '已经|仍然|不断|终于|很少|经常|正在|应该|可能|必须|从来没有|也许会|几乎|一直|主动|慢慢地|认真地|顺利地|共同|再次|||||'
  ),
  verb: list(
    '提出|改进|讨论|使用|支持|分析|完成|放弃|购买|研究|介绍|保存|发现|选择|翻译|管理|检查|影响|设计|需要|比较|记录|发表|准备|参观|避免|理解|解释|' +
      '推广|减少|保护|打开|替换|测试|寻找|组织|忘记|修理|欣赏|整理'
  ),
  quality: list(
    '重要的|简单的|新的|复杂的|更便宜的|高质量的|古老的|公开的|长期的|不同的|有趣的|难以理解的|大规模的|安全的|传统的|临时的|成熟的|当地的|最基本的|令人满意的||||'
  ),
  noun: list(
    '方法|数据|模型|语言|城市|文化|历史|音乐|食物|计划|问题|结果|服务器|文章|教育制度|环境|市场|工具|经验|消息|关系|价格|建筑|软件|电影|节日|合同|技术标准|' +
      '交通|能源|实验|原因|报告|习惯|窗户|照片|程序|河流|机会|规则|森林|课程|产品|故事|风险|账户|观点|资源|参数|博物馆'
  ),
  stop: list('，|，|，|，|。|。|。|；|！|？|、')
}

const japanese = {
  opening: list(
    '去年|最近|実際には|一般的に|昨日の夜|会議では|今のところ|長い目で見れば|この問題を解決するために|同時に|多くの場合|三か月前|調査によると|驚いたことに|' +
      '予定どおり|週末になると|寒くなってから|時間はあまりなかったが|何度も試した後|言うまでもなく|そのうえ|例えば|念のため|幸いにも'
  ),
  subject: list(
    '私たち|この会社|研究者|多くの利用者|学生たち|地元の人々|エンジニア|政府|専門家|お客様|その作家|このシステム|新しい案|編集部|若い両親|チーム|図書館|病院|' +
      '農家|観光客|友人|先生|隣の人|記者|アーティスト|業界全体|ボランティア|船長|ユーザー|この本|データベース|委員会|デザイナー|運転手'
  ),
  particle: list('は|は|は|が|が|も'),
  quality: list(
    '重要な|簡単な|新しい|複雑な|もっと安い|質の高い|古い|公開された|長期的な|異なる|面白い|分かりにくい|大きな|安全な|伝統的な|一時的な|地元の|基本的な||||'
  ),
  noun: list(
    '方法|データ|モデル|言語|都市|文化|歴史|音楽|食べ物|計画|問題|結果|サーバー|記事|教育|環境|市場|ツール|経験|お知らせ|関係|価格|建物|ソフトウェア|映画|' +
      '祭り|契約|標準|交通|エネルギー|実験|理由|レポート|習慣|窓|写真|プログラム|川|機会|ルール|森|講座|製品|物語|リスク|アカウント|意見|資源|パラメータ|博物館'
  ),
  verb: list(
    '提案しました|改善している|話し合った|使っています|支えてきた|分析しました|終えたところです|あきらめた|買いました|研究しています|紹介します|保存した|見つけた|' +
      '選びます|翻訳しなければならない|管理している|確認してください|設計した|必要としている|比べました|記録する|発表した|準備しています|避けたい|理解できない|' +
      '説明してくれた|広めました|減らすべきだ|守ろうとしている|開いた|探している|忘れてしまった|直しました|楽しんでいる|整理しました'
  ),
  stop: list('。|。|。|。|、そして|が、|ので、|！|？')
}

/** Where things happen: names of regions, languages and currencies as Node itself knows them, some 500 in each language. */
function namesIn(locale: string): readonly string[] {
  const letters = Array.from({ length: 26 }, (_, index) => String.fromCharCode(97 + index))
  const pairs = letters.flatMap((first) => letters.map((second) => first + second))
  const named = (type: 'region' | 'language', codes: readonly string[]): readonly string[] => {
    const names = new Intl.DisplayNames([locale], { type, fallback: 'none' })
    return codes.map((code) => names.of(code)).filter((name) => name !== undefined)
  }
  const regions = named(
    'region',
    pairs.map((pair) => pair.toUpperCase())
  )
  return [...regions, ...named('language', pairs)]
}

/** The same numbers in every process. Mulberry32. */
export function createRandom(seed: number): (below: number) => number {
  let state = seed
  return (below) => {
    state = (state + 0x6d2b79f5) | 0
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state)
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed
    return Math.floor((((mixed ^ (mixed >>> 14)) >>> 0) / 4_294_967_296) * below)
  }
}

/** Paragraphs of some 300 characters, one Chinese, one Japanese. */
export function chineseAndJapanese(bytes: number, seed: number): string {
  const random = createRandom(seed)
  const pick = (words: readonly string[]): string => words[random(words.length)] as string
  const [regions, places] = [namesIn('zh-Hans'), namesIn('ja')]
  const { opening, subject, manner, verb, quality, noun, stop } = chinese
  const clauses: readonly (() => string)[] = [
    () => pick(subject) + pick(manner) + pick(verb) + pick(quality) + pick(noun) + pick(stop),
    () => `${pick(opening)}，${pick(subject)}${pick(verb)}了${pick(regions)}的${pick(noun)}${pick(stop)}`,
    () =>
      `${pick(quality)}${pick(noun)}和${pick(noun)}对${pick(subject)}来说${pick(manner)}是${pick(quality)}${pick(noun)}${pick(stop)}`,
    () => `${pick(subject)}在${pick(regions)}${pick(verb)}${pick(noun)}，共有${random(900) + 2}个${pick(noun)}${pick(stop)}`
  ]
  const sentences: readonly (() => string)[] = [
    () =>
      `${pick(japanese.subject)}${pick(japanese.particle)}${pick(japanese.quality)}${pick(japanese.noun)}を${pick(japanese.verb)}`,
    () =>
      `${pick(japanese.opening)}、${pick(japanese.subject)}${pick(japanese.particle)}${pick(places)}で${pick(japanese.noun)}を${pick(japanese.verb)}`,
    () => `${pick(japanese.noun)}と${pick(japanese.noun)}の${pick(japanese.noun)}について${pick(japanese.subject)}に説明した`,
    () =>
      `${pick(places)}の${pick(japanese.noun)}は${random(900) + 2}年前より${pick(japanese.quality)}${pick(japanese.noun)}になった`
  ]
  let text = ''
  // Three bytes a character.
  for (let written = 0; written < bytes; ) {
    let paragraph = ''
    while (paragraph.length < 300) paragraph += clauses[random(clauses.length)]?.()
    while (paragraph.length < 600) paragraph += `${sentences[random(sentences.length)]?.()}${pick(japanese.stop)}`
    text += `${paragraph}\n\n`
    written += Buffer.byteLength(paragraph) + 2
  }
  return text
}
