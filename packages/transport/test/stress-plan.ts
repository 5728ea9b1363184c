/** What the server is to do to one attempt of a call. */
export interface Act {
  readonly fault: 'none' | 'drip' | 'gzip' | 'close-delimited' | 'reset' | 'end' | 'stall' | 'silence' | 'status' | 'error-event'
  /** Where or which, from 0 to 1. */
  readonly at: number
  readonly hintMs?: number | undefined
  /** When the connection is closed behind the answer; left out: never. */
  readonly idleMs?: number | undefined
}

/** One call, as its body tells the server. */
export interface Plan {
  readonly id: string
  readonly kind: 'json' | 'stream'
  readonly words: number
  /** Of its first attempt, its second and so on; the last for all behind it. */
  readonly acts: readonly Act[]
  readonly stream: boolean
}

/** No two calls have a word in common. */
function wordsOf({ id, words }: Plan): readonly string[] {
  return Array.from({ length: words }, (_, index) => `${id}.${index} `)
}

export function answerOf(plan: Plan): string {
  return JSON.stringify({ id: plan.id, text: wordsOf(plan).join('') })
}

export function eventsOf(plan: Plan): readonly string[] {
  const event = (delta: object, finish: string | null): string =>
    `data: ${JSON.stringify({ id: plan.id, choices: [{ index: 0, delta, finish_reason: finish }] })}\n\n`
  return [
    ': hello\n\n',
    event({ role: 'assistant', content: '' }, null),
    ...wordsOf(plan).map((content) => event({ content }, null)),
    event({}, 'stop'),
    'data: [DONE]\n\n'
  ]
}
