import { randomUUID } from 'node:crypto'
import { type Answer, longTokens, type Question } from './doctor-answer.ts'
import { rise } from './doctor-counts.ts'
import type { Gateway } from './doctor-gateway.ts'
import { failed, milliseconds, passed, plural, type Verdict } from './doctor-verdict.ts'

/** Askers of one question at once. */
export const askers = 10

export interface CacheFigures {
  /** What `x-millrace-cache` said of a question asked first, asked again, and of another one. */
  readonly first: string | undefined
  readonly second: string | undefined
  readonly other: string | undefined
  readonly firstMs: number
  readonly secondMs: number
  readonly sameText: boolean
  /** What is wrong with the answers to three different questions, if something is. */
  readonly mixed: Mixed | undefined
  /** Of one new question asked at once by many: their states, whether all got the same text, and its requests upstream. */
  readonly states: readonly (string | undefined)[]
  readonly allSame: boolean
  readonly requests: number
  /** Whether others called meanwhile, so that some of `requests` may be theirs. */
  readonly others: boolean
}

export type Mixed = 'empty' | 'foreign' | 'alike'

interface Coded {
  readonly code: string
  readonly question: Question
}

/** A model that repeats the code shows whose answer a text is. */
function codedQuestion(task: string): Coded {
  const code = randomUUID()
  return {
    code,
    question: { messages: [{ role: 'user', content: `[${code}] Repeat this code, then ${task}` }], maxTokens: longTokens }
  }
}

/**
 * Each text belongs to the question with its code. A model may leave the codes out and name the same colours twice; but not
 * answer a question about rivers as it does one about colours.
 */
export function mixedIn(answers: readonly { readonly code: string; readonly text: string }[]): Mixed | undefined {
  if (answers.some(({ text }) => text.trim() === '')) return 'empty'
  if (answers.some(({ code, text }) => answers.some((other) => other.code !== code && text.includes(other.code))))
    return 'foreign'
  return new Set(answers.map(({ text }) => text)).size === 1 ? 'alike' : undefined
}

export async function measureCache(gateway: Gateway): Promise<CacheFigures> {
  const colours = codedQuestion('name three colours.')
  const question = colours.question
  const first = await gateway.ask(question)
  const again: Answer[] = []
  for (let time = 0; time < 3; time++) again.push(await gateway.ask(question))
  const likewise = codedQuestion('name three colours.')
  const other = await gateway.ask(likewise.question)

  const before = await gateway.settled((counts) => counts.running === 0)
  const sent = gateway.sent()
  const rivers = codedQuestion('name three rivers.')
  const answers = await Promise.all(Array.from({ length: askers }, () => gateway.ask(rivers.question)))
  const after = await gateway.settled((counts) => counts.calls - before.calls >= askers)
  const { requests, retries, calls } = rise(before, after)
  return {
    first: first.cache,
    second: again[0]?.cache,
    other: other.cache,
    firstMs: first.elapsedMs,
    secondMs: Math.min(...again.map((answer) => answer.elapsedMs)),
    mixed: mixedIn([
      { code: colours.code, text: first.text },
      { code: likewise.code, text: other.text },
      ...answers.map(({ text }) => ({ code: rivers.code, text }))
    ]),
    sameText: again.every(({ text }) => text === first.text),
    states: answers.map(({ cache }) => cache),
    allSame: new Set(answers.map(({ text }) => text)).size === 1,
    requests: requests - retries,
    others: calls > gateway.sent() - sent
  }
}

export function judgeCache(figures: CacheFigures): Verdict {
  const { first, second, other, mixed, firstMs, secondMs, sameText, states, allSame, requests, others } = figures
  const shared = states.filter((state) => state === 'joined' || state === 'hit').length
  const figure = `asked again: ${second ?? 'no cache'} in ${milliseconds(secondMs)} instead of ${milliseconds(firstMs)}; ${states.length} askers at once: ${plural(requests, 'request')} to the provider, ${shared} shared${others ? ' (others call too)' : ''}`
  if (mixed === 'empty')
    return failed(
      figure,
      'an answer was without text',
      `see what lies between: the answer of the provider must arrive whole; or give a --model that answers in text within ${longTokens} tokens`
    )
  const turnOn = 'turn the cache on: no `"cache": false` in gateway.json, and a lifetime (MILLRACE_CACHE_TTL_MS) of some seconds'
  if (second !== 'hit') return failed(figure, `the same question asked again was no hit but ${second ?? 'not looked up'}`, turnOn)
  if (first === 'hit' || other === 'hit')
    return failed(
      figure,
      'a question nobody asked before was a hit',
      'take the cache off and report it: answers go to wrong askers'
    )
  if (mixed === 'foreign')
    return failed(
      figure,
      'an answer held the code of another question than its own',
      'take the cache off and report it: answers go to wrong askers'
    )
  if (mixed === 'alike')
    return failed(
      figure,
      'three different questions got one and the same text',
      'ask the provider itself: where it tells them apart, take the cache off and report it, for answers go to wrong askers'
    )
  if (!sameText || !allSame)
    return failed(
      figure,
      'a shared answer was another text than the first one',
      'take the cache off and report it: answers go to wrong askers'
    )
  if (secondMs >= firstMs)
    return failed(
      figure,
      'a hit is no faster than the provider',
      'see what else takes the time: the shared tier (REDIS_URL) may be far away'
    )
  if (shared < states.length - 1 || (requests > 1 && !others)) {
    return failed(
      figure,
      `${states.length} equal questions at once were not answered by one request`,
      'see that the provider answers (a failed answer is asked for again), and that nothing splits equal questions, such as a field of each caller'
    )
  }
  return passed(figure)
}
