import { type HttpResponse, isJsonObject, isMillraceError, parseJson, sleep } from '@millrace/core'
import { createTransport } from '@millrace/transport'
import { oneLine } from './doctor-verdict.ts'

/** The gateway did not do what was asked; the text goes to the user, and holds nothing of the token. */
export class Unanswered extends Error {
  override readonly name = 'Unanswered'
  readonly status: number | undefined

  constructor(message: string, status?: number) {
    super(oneLine(message))
    this.status = status
  }
}

/** A check's time is over. */
export class TooSlow extends Error {
  override readonly name = 'TooSlow'
}

export interface LinkOptions {
  readonly address: string
  readonly token: string | undefined
  /** Of each request. */
  readonly timeoutMs: number
  /** Of each check. */
  readonly budgetMs: number
}

/** Requests to one gateway, as its operator. */
export interface Link {
  /** From now on there are `budgetMs`; what is not answered by then throws `TooSlow`. */
  begin(): void
  /** @throws {Unanswered} for every status but success, and when there is none; {@link TooSlow} */
  send(method: 'GET' | 'POST', path: string, body?: string): Promise<HttpResponse>
  /** The body of a response; throws as `send` does. */
  textOf(path: string, response: HttpResponse): Promise<string>
  /** What a body of an error says, as an end of a sentence. */
  messageOf(body: string): string
  /** Throws what `error` means for the user. @throws {Unanswered} @throws {TooSlow} */
  refuse(path: string, error: unknown): never
  close(): Promise<void>
}

/** How often a request that is refused by a limit is sent again: of limits this command does not judge. */
const patience = 3

export function createLink({ address, token, timeoutMs, budgetMs }: LinkOptions): Link {
  // What is tried again would be counted twice.
  const transport = createTransport({ retry: false, breaker: false })
  const headers = {
    'content-type': 'application/json',
    ...(token === undefined ? {} : { authorization: `Bearer ${token}` })
  }

  let endsAt = performance.now() + budgetMs

  /** Of the check's time. */
  function leftMs(): number {
    const left = endsAt - performance.now()
    if (left <= 0) throw new TooSlow()
    return left
  }

  const link: Link = {
    begin() {
      endsAt = performance.now() + budgetMs
    },
    async send(method, path, body) {
      for (let waits = 0; ; waits++) {
        const response = await transport
          .send({ method, url: address + path, headers, body, timeouts: { totalMs: Math.ceil(Math.min(timeoutMs, leftMs())) } })
          .catch((error: unknown) => link.refuse(path, error))
        if (response.status < 300) return response
        const told = await link.textOf(path, response)
        if ((response.status !== 429 && response.status !== 503) || waits === patience) {
          throw new Unanswered(`${path} answered ${response.status}${link.messageOf(told)}`, response.status)
        }
        await sleep(Math.min(5000, leftMs(), 1000 * (Number(response.headers['retry-after']) || 1)))
      }
    },
    textOf: (path, response) => response.body.text().catch((error: unknown) => link.refuse(path, error)),
    messageOf(body) {
      const told = parseJson(body)
      const message = isJsonObject(told) && isJsonObject(told.error) ? told.error.message : undefined
      return typeof message === 'string' ? clean(`: ${message.slice(0, 200)}`) : ''
    },
    refuse(path, error) {
      if (!isMillraceError(error)) throw error
      if (isMillraceError(error, 'timeout')) {
        leftMs()
        throw new Unanswered(`${path} gave no whole answer within ${timeoutMs / 1000} s (--timeout SECONDS gives it longer)`)
      }
      throw new Unanswered(`${path}: ${clean(error.message)}`)
    },
    close: () => transport.close({ graceMs: 0 })
  }

  function clean(text: string): string {
    return token === undefined ? text : text.replaceAll(token, '[redacted]')
  }

  return link
}
