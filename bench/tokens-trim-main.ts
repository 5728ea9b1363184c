// One call of LangChain's trimMessages with a counter that goes through what it is given: `tokens-trim-main.ts <subject>`.
import { AIMessage, type BaseMessage, HumanMessage, SystemMessage, trimMessages } from '@langchain/core/messages'
import { counter } from './tokens-counters.ts'
import { budget, createHistories } from './tokens-history.ts'

const count = await counter(process.argv[2] ?? '')
const history = createHistories(1000, 400)()
const messages = history.map(({ role, content }): BaseMessage => {
  const text = content as string
  return role === 'system' ? new SystemMessage(text) : role === 'user' ? new HumanMessage(text) : new AIMessage(text)
})

function tokenCounter(given: readonly BaseMessage[]): number {
  let tokens = 3
  for (const { content } of given) tokens += 4 + count(content as string)
  return tokens
}

if (!(tokenCounter(messages) > budget)) throw new Error('all of it is within the budget')
process.send?.('ready')
const startedAt = performance.now()
const kept = await trimMessages(messages, { maxTokens: budget, strategy: 'last', includeSystem: true, tokenCounter })
const ms = performance.now() - startedAt
if (kept.length < 50 || tokenCounter(kept) > budget) throw new Error(`it kept ${kept.length} messages`)
process.send?.({ ms, kept: kept.length })
process.disconnect()
