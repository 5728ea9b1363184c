import { newQuestion, shortTokens } from './doctor-answer.ts'
import { rise } from './doctor-counts.ts'
import type { Gateway } from './doctor-gateway.ts'
import { failed, passed, percent, plural, type Verdict } from './doctor-verdict.ts'

/** So many calls at once: some gateways allow one client few more. */
export const atOnce = 8

export interface PoolingFigures {
  /** That doctor sent, each of another question. */
  readonly calls: number
  readonly opened: number
  readonly requests: number
  readonly reused: number
}

/** After `atOnce` calls have opened what they need: a row of calls, then as many at once again. */
export async function measurePooling(gateway: Gateway, row: number): Promise<PoolingFigures> {
  const ask = (): Promise<unknown> => gateway.ask(newQuestion('Reply with the word ready.', shortTokens))
  const crowd = (): Promise<unknown> => Promise.all(Array.from({ length: atOnce }, ask))
  await crowd()
  const before = await gateway.counts()
  for (let call = 0; call < row; call++) await ask()
  await crowd()
  const calls = row + atOnce
  const after = await gateway.settled((counts) => counts.requests - before.requests >= calls)
  const { opened, requests, reused } = rise(before, after)
  return { calls, opened, requests, reused }
}

/** Four of five requests must find an open socket: a provider may close some, and the last crowd may come to be larger. */
export function judgePooling({ calls, opened, requests, reused }: PoolingFigures): Verdict {
  const figure = `${plural(requests, 'request')} to the provider opened ${plural(opened, 'socket')}, ${percent(requests === 0 ? 0 : reused / requests)} went over an open one`
  if (requests < calls) {
    return failed(
      figure,
      `${plural(calls, 'call')} of different questions made only ${plural(requests, 'request')}`,
      'see that the calls reach a provider: something in front of the gateway, or its cache, answers questions that nobody asked before'
    )
  }
  if (reused < 0.8 * requests || opened > 0.2 * requests) {
    return failed(
      figure,
      'connections are opened anew for calls that follow each other',
      'see that the provider, or a proxy before it, keeps connections alive (no `connection: close`, an idle time above a second), and that one transport serves all calls'
    )
  }
  return passed(figure)
}
