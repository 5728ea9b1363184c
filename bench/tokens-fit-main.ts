// Fits a history of 1,000 messages, and counts a request of 20, over and over: `tokens-fit-main.ts <rounds>`. First calls and next
// ones belong to the same tokenizer, so all of them share this process; each round takes every step once.
import { fit } from '@millrace/tokens'
import { type Count, counter, ourTokenizer } from './tokens-counters.ts'
import { budget, createHistories, parsedAnew } from './tokens-history.ts'

type Messages = ReturnType<ReturnType<typeof createHistories>>
/** Prepares what is timed, which does it so many times. */
type Step = () => { readonly times: number; readonly run: (time: number) => unknown }

const rounds = Number(process.argv[2])
const warmUp = 10
const tokenizer = await ourTokenizer()
const byTiktoken = await counter('tiktoken')
const byGptTokenizer = await counter('gpt-tokenizer')
const history = createHistories(1000, 400)
const request = createHistories(20, 800)

function fitted(messages: Messages): void {
  const { messages: kept, tokens } = fit(messages, { budget, tokenizer })
  if (tokens > budget || kept.length < 50) throw new Error(`fit kept ${kept.length} messages of ${tokens} tokens`)
}

/** What `fit` cannot do without: each message counted once, from the last, until the budget is full. */
function backwardPass(messages: Messages): number {
  let tokens = 3
  for (let index = messages.length - 1; index >= 0; index--) {
    tokens += 4 + tokenizer.count(messages[index]?.content as string)
    if (tokens > budget) return messages.length - index
  }
  throw new Error('all of it is within the budget')
}

/** As in OpenAI's cookbook. */
function loop(count: Count, messages: Messages): number {
  let tokens = 3
  for (const { role, content } of messages) tokens += 3 + count(role) + count(content as string)
  return tokens
}

let [last, lastRequest] = [history(), request()]
const once = (run: () => unknown): ReturnType<Step> => ({ times: 1, run })
const eachOf = (all: readonly Messages[], run: (messages: Messages) => unknown): ReturnType<Step> => ({
  times: all.length,
  run: (time) => run(all[time] as Messages)
})
const anew = (): readonly Messages[] => Array.from({ length: 10 }, request)

const fitting: Readonly<Record<string, Step>> = {
  'one backward pass': () => eachOf([history()], backwardPass),
  'one backward pass again': () => eachOf([history()], backwardPass),
  'fit, first call': () => eachOf([(last = history())], fitted),
  'fit, next call': () => once(() => fitted(last)),
  'fit, two messages later': () => eachOf([[...last, ...history().slice(1, 3)]], fitted),
  'fit, the same parsed anew': () => eachOf([parsedAnew(last)], fitted)
}
const counting: Readonly<Record<string, Step>> = {
  'loop over gpt-tokenizer': () => eachOf(anew(), (messages) => loop(byGptTokenizer, messages)),
  'loop over tiktoken': () => eachOf(anew(), (messages) => loop(byTiktoken, messages)),
  'loop over tokenizer.count': () => eachOf(anew(), (messages) => loop(tokenizer.count, messages)),
  'countMessages, first call': () => eachOf([...anew(), (lastRequest = request())], tokenizer.countMessages),
  'countMessages, next call': () => ({ times: 100, run: () => tokenizer.countMessages(lastRequest) }),
  'countMessages, the same parsed anew': () =>
    eachOf(
      Array.from({ length: 10 }, () => parsedAnew(lastRequest)),
      tokenizer.countMessages
    )
}

const us = new Map([...Object.keys(fitting), ...Object.keys(counting)].map((name) => [name, [] as number[]]))
for (let round = -warmUp; round < rounds; round++) {
  for (const [name, step] of [...Object.entries(fitting), ...Object.entries(counting)]) {
    const { times, run } = step()
    const startedAt = performance.now()
    for (let time = 0; time < times; time++) run(time)
    if (round >= 0) us.get(name)?.push(((performance.now() - startedAt) * 1000) / times)
  }
}
process.send?.({ fitting: Object.keys(fitting), counting: Object.keys(counting), us: Object.fromEntries(us) })
process.once('disconnect', () => process.exit())
