import { randomUUID } from 'node:crypto'
import { type Question, shortTokens } from './doctor-answer.ts'
import { rise } from './doctor-counts.ts'
import type { Gateway } from './doctor-gateway.ts'
import { Unanswered } from './doctor-link.ts'
import { failed, passed, plural, type Verdict } from './doctor-verdict.ts'

const turns = 80
/** One token each in the vocabularies of OpenAI, with the space before it. */
const words = 'river stone window garden market bridge letter music paper winter summer table forest silver road water'.split(' ')

export interface TokenFigures {
  /** About so many were sent. */
  readonly sentTokens: number
  readonly messages: number
  readonly dropped: number
  /** What the provider counted. */
  readonly promptTokens: number
  /** What the gateway counted as saved. */
  readonly fitted: number
  /** What the gateway answered instead, such as the provider's refusal. */
  readonly refused: string | undefined
}

/** One long talk: where nothing is dropped it is paid for whole, so it is sent once. */
export async function measureTokens(gateway: Gateway, sentTokens: number): Promise<TokenFigures> {
  const talk = longTalk(sentTokens)
  const before = await gateway.counts()
  const facts = { sentTokens, messages: talk.messages.length }
  try {
    const { dropped, promptTokens } = await gateway.ask(talk)
    const after = await gateway.settled((counts) => dropped === 0 || counts.tokensFitted > before.tokensFitted)
    return { ...facts, dropped, promptTokens, fitted: rise(before, after).tokensFitted, refused: undefined }
  } catch (error) {
    if (!(error instanceof Unanswered) || error.status !== 400) throw error
    return { ...facts, dropped: 0, promptTokens: 0, fitted: 0, refused: error.message }
  }
}

export function judgeTokens({ sentTokens, messages, dropped, promptTokens, fitted, refused }: TokenFigures): Verdict {
  const talk = `a talk of about ${plural(sentTokens, 'token')}`
  if (refused !== undefined) {
    return failed(
      `${talk} was refused`,
      refused,
      'set MILLRACE_CONTEXT_WINDOW to the window of the model: what is too long then loses its oldest turns and is answered'
    )
  }
  if (dropped === 0) {
    return failed(
      `of ${talk} nothing was left out: ${plural(promptTokens, 'token')} went to the provider`,
      `no message was dropped from ${talk}`,
      'set MILLRACE_CONTEXT_WINDOW to fewer tokens; where it is larger, give --prompt-tokens above it'
    )
  }
  const figure = `of ${talk} ${plural(promptTokens, 'token')} went to the provider: ${dropped} of ${messages} messages dropped, ${plural(fitted, 'token')} by the gateway's own count`
  if (fitted <= 0)
    return failed(
      figure,
      'messages were dropped, and no token was counted as saved',
      'report it: `tokensFitted` of /v1/stats stands still'
    )
  // Of a vocabulary with more tokens a word than ours, the provider's own count tells.
  const most = Math.max(sentTokens, (promptTokens * messages) / Math.max(1, messages - dropped))
  if (fitted > most) {
    return failed(
      figure,
      `the gateway counts ${plural(fitted, 'token')} as saved, more than were sent`,
      'see what else is counted: others that call meanwhile, or a count of `tokensFitted` in /v1/stats that is wrong (report it)'
    )
  }
  if (promptTokens >= 0.9 * sentTokens) {
    return failed(
      figure,
      'the provider counted nearly all tokens that were sent',
      'see that the model of MILLRACE_CONTEXT_WINDOW is the one that answers, and that nothing calls the provider around the gateway'
    )
  }
  return passed(figure)
}

/** A system message, turns about nothing, and a last question; new each time, so that no cache knows it. */
function longTalk(tokens: number): Question {
  const length = Math.max(1, Math.round(tokens / turns))
  const content = Array.from({ length }, (_, at) => words[at % words.length]).join(' ')
  return {
    maxTokens: shortTokens,
    messages: [
      { role: 'system', content: `[${randomUUID()}] You answer in one word.` },
      ...Array.from({ length: turns }, (_, at) => ({ role: at % 2 === 0 ? ('user' as const) : ('assistant' as const), content })),
      { role: 'user', content: 'Reply with the word ready.' }
    ]
  }
}
