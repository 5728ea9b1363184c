import { type BesideMessages, type Message, parseJson } from '@millrace/core'
import { compactJson } from './call-text.ts'
import { charged } from './charged.ts'
import { maxTextChars } from './memo.ts'
import type { Tokenizer } from './tokenizer.ts'
import { type Units, unitsOf } from './units.ts'

/** By what a conversation is cut. */
export interface CutRules {
  readonly tokenizer: Tokenizer
  readonly beside: BesideMessages
  /** Tokens, the safety factor counted in. */
  readonly budget: number
  /** Of the budget, kept free as far as what must stay allows it. */
  readonly reserve: number
  readonly drop: 'oldest' | 'middle'
  readonly slack: number
  /** Whose message should come behind the gap. */
  readonly behind: 'user' | 'assistant'
}

/** What stays and what goes, in the order it came. */
export interface Cut {
  readonly kept: readonly Message[]
  /** Empty when all fits. */
  readonly dropped: readonly Message[]
  /** What `kept` takes, without the safety factor. More than the budget when that is what must stay. */
  readonly tokens: number
  /** How many of `kept` stand before the first gap. */
  readonly gap: number
}

/** Of the budget: what 'middle' keeps of the head. */
const headShare = 1 / 4

/**
 * Characters. A longer text is first shown to be too long, which is cheaper than to count it; the count of a shorter one is
 * remembered, also when its message comes as another object.
 */
const longText: number = maxTextChars

/** Counts what must stay, and then from the end until the budget is full: never the whole history. Linear. */
export function cut(messages: readonly Message[], rules: CutRules): Cut {
  const { tokenizer, slack, behind } = rules
  const units = unitsOf(messages)
  const { stays, loose, turn } = units
  const cost = costs(messages, units, tokenizer)
  // Behind the last of the loose units comes the last turn.
  const roleAt = (index: number): string | undefined => messages[loose[index] ?? turn]?.role
  const { safetyFactor } = tokenizer
  const share = (ofBudget: number): number => (rules.budget * ofBudget) / safetyFactor

  let used = tokenizer.countMessages(staying(messages, units), rules.beside)
  const budget = Math.max(rules.budget - rules.reserve, Math.min(charged(used, safetyFactor), rules.budget))
  if (charged(used, safetyFactor) > budget) return split(messages, units, used)

  const head = rules.drop === 'middle' ? takeHead() : 0
  // The newest first, and the first that does not fit ends it: a conversation with holes misleads the model.
  let tail = loose.length
  while (tail > head && fits(tail - 1, used)) used += cost(--tail)
  if (tail > head) settle()
  for (let index = 0; index < head; index++) stays[loose[index] as number] = 1
  for (let index = tail; index < loose.length; index++) stays[loose[index] as number] = 1
  return split(messages, units, used)

  function fits(index: number, beside: number): boolean {
    for (const { text, least } of longTexts(loose[index] as number)) {
      if (!tokenizer.fits(text, (budget - beside * safetyFactor) / least)) return false
    }
    return charged(beside + cost(index), safetyFactor) <= budget
  }

  function* longTexts(unit: number): Generator<LowerBound> {
    let at = unit
    do {
      for (const bound of boundsOf(messages[at] as Message)) if (bound.text.length > longText) yield bound
      at = units.next[at] as number
    } while (at !== 0)
  }

  /** Whole turns; of a first turn that is longer than the head may be, its beginning. */
  function takeHead(): number {
    // A share of the budget and not of what the last turn leaves, so that the head is the same from call to call.
    const most = used + Math.min(share(headShare), (budget / safetyFactor - used) / 2)
    let filled = used
    let end = 0
    let turns = 0
    while (end < loose.length && fits(end, filled) && filled + cost(end) <= most) {
      filled += cost(end++)
      if (roleAt(end) !== 'user') continue
      turns = end
      used = filled
    }
    if (turns > 0) return turns
    used = filled
    return end
  }

  /** Moves the end of the gap to where the right role comes behind it, and where it will be the next time. */
  function settle(): void {
    let place = tail
    let given = 0
    while (place < loose.length && roleAt(place) !== behind) given += cost(place++)
    if (roleAt(place) === behind && given <= share(slack)) {
      tail = place
      used -= given
      steady(given, loose.length, (index) => roleAt(index) === behind)
      return
    }
    // The gap ends within a turn too long to be given up. Its question stays in front of what is left of the answer:
    // without one some providers refuse the request, and the model does not know what it was about.
    if (head === 0 && behind === 'user') keepQuestion(place)
    steady(0, place, () => true)
  }

  function keepQuestion(end: number): void {
    let question = tail - 1
    while (question >= 0 && roleAt(question) !== 'user') question--
    if (question === -1 || !fits(question, 0)) return
    let from = tail
    let taken = used + cost(question)
    while (from < end && charged(taken, safetyFactor) > budget) taken -= cost(from++)
    if (from === end) return
    stays[loose[question] as number] = 1
    tail = from
    used = taken
  }

  /**
   * Providers bill the beginning of a prompt at a fraction when it is the same as before, so the gap should end at the same
   * place while the conversation grows. Of the places that are not more than `slack` off, this takes the one whose number
   * is divisible by the highest power of two: it stays the best until it is left behind, and the next is as far off as half
   * of those places.
   */
  function steady(given: number, end: number, isPlace: (index: number) => boolean): void {
    let before = tail - 1
    while (before >= 0 && !isPlace(before)) before--
    let best = -1
    let saved = 0
    for (let index = tail, more = 0; index < end && given + more <= share(slack); more += cost(index++)) {
      if (!isPlace(index)) continue
      // The highest bit in which two numbers differ: the greatest power of two that has a multiple between them.
      const level = 31 - Math.clz32((loose[index] as number) ^ (loose[before] ?? -1))
      before = index
      if (level <= best) continue
      best = level
      tail = index
      saved = more
    }
    used -= saved
  }
}

/** A text of a message, and the share of its tokens that the message takes at least. */
interface LowerBound {
  readonly text: string
  readonly least: number
}

/** Arguments and some results are written down in other spacing, and so take fewer tokens than their text: see `call-text.ts`. */
function* boundsOf(message: Message): Generator<LowerBound> {
  const isResult = message.role === 'tool'
  const texts =
    typeof message.content === 'string' ? [message.content] : message.content.map((part) => ('text' in part ? part.text : ''))
  for (const text of texts) yield isResult ? respaced(text) : { text, least: 1 }
  if (message.role !== 'assistant') return
  for (const call of message.toolCalls ?? []) {
    const bound = respaced(call.arguments)
    // What is no JSON loses its spaces all the same, and nothing is known of what it takes then.
    if (bound.text !== call.arguments) yield bound
  }
}

/** Half, for other spaces can merge otherwise: this is to tell what is far too long. */
function respaced(text: string): LowerBound {
  // Its ends are looked at first: to parse ten megabytes of brackets that never close takes longer than all the rest.
  const isJson =
    text.length > longText && /^\s*[[{]/.test(text) && /[\]}]$/.test(text.slice(-64).trimEnd()) && parseJson(text) !== undefined
  return { text: isJson ? compactJson(text) : text, least: 1 / 2 }
}

function staying(messages: readonly Message[], { of, stays }: Units): readonly Message[] {
  const found: Message[] = []
  for (let at = 0; at < messages.length; at++) if (stays[of[at] as number] === 1) found.push(messages[at] as Message)
  return found
}

/** What a unit takes, by its index among the loose ones. Counted when it is first asked for. */
function costs(messages: readonly Message[], { loose, next }: Units, tokenizer: Tokenizer): (index: number) => number {
  const known = new Float64Array(loose.length).fill(-1)
  const bare = tokenizer.countMessages([])
  return (index) => {
    if ((known[index] as number) >= 0) return known[index] as number
    let at = loose[index] as number
    // Together, for a result may cost more beside its call.
    const unit = [messages[at] as Message]
    while (next[at] !== 0) {
      at = next[at] as number
      unit.push(messages[at] as Message)
    }
    const tokens = tokenizer.countMessages(unit) - bare
    known[index] = tokens
    return tokens
  }
}

function split(messages: readonly Message[], { of, stays }: Units, tokens: number): Cut {
  const kept: Message[] = []
  const dropped: Message[] = []
  let gap = 0
  for (let at = 0; at < messages.length; at++) {
    const message = messages[at] as Message
    if (stays[of[at] as number] === 0) dropped.push(message)
    else {
      kept.push(message)
      if (dropped.length === 0) gap++
    }
  }
  return { kept, dropped, tokens, gap }
}
