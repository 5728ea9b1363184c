import { type HttpResponse, isJsonObject, isMillraceError, parseJson, sleep } from '@millrace/core'
import { createTransport } from '@millrace/transport'

/** The gateway did not do what was asked; the text goes to the user, and holds nothing of the token. */
export class Unanswered extends Error {
  override readonly name = 'Unanswered'
  readonly status: number | undefined

  constructor(message: string, status?: number) {
    super(message)
    this.status = status
  }
}

export interface LinkOptions {
  readonly address: string
  readonly token: string | undefined
  /** Of each request. */
  readonly timeoutMs: number
}

/** Requests to one gateway, as its operator. */
export interface Link {
  /** @throws {Unanswered} for every status but success, and when there is none */
  send(method: 'GET' | 'POST', path: string, body?: string): Promise<HttpResponse>
  /** The body of a response; throws as `send` does. */
  textOf(response: HttpResponse): Promise<string>
  /** What a body of an error says, as an end of a sentence. */
  messageOf(body: string): string
  /** @throws {Unanswered} that says what `error` does */
  refuse(error: unknown): never
  close(): Promise<void>
}

/** How often a request that is refused by a limit is sent again: of limits this command does not judge. */
const patience = 3

export function createLink({ address, token, timeoutMs }: LinkOptions): Link {
  // What is tried again would be counted twice.
  const transport = createTransport({ retry: false, breaker: false })
  const headers = {
    'content-type': 'application/json',
    ...(token === undefined ? {} : { authorization: `Bearer ${token}` })
  }

  const link: Link = {
    async send(method, path, body) {
      for (let waits = 0; ; waits++) {
        const response = await transport
          .send({ method, url: address + path, headers, body, timeouts: { totalMs: timeoutMs } })
          .catch(link.refuse)
        if (response.status < 300) return response
        const told = await link.textOf(response)
        if ((response.status !== 429 && response.status !== 503) || waits === patience) {
          throw new Unanswered(`${path} answered ${response.status}${link.messageOf(told)}`, response.status)
        }
        await sleep(Math.min(5000, 1000 * (Number(response.headers['retry-after']) || 1)))
      }
    },
    textOf: (response) => response.body.text().catch(link.refuse),
    messageOf(body) {
      const told = parseJson(body)
      const message = isJsonObject(told) && isJsonObject(told.error) ? told.error.message : undefined
      return typeof message === 'string' ? clean(`: ${message.slice(0, 200)}`) : ''
    },
    refuse(error) {
      if (!isMillraceError(error)) throw error
      throw new Unanswered(clean(error.message))
    },
    close: () => transport.close({ graceMs: 0 })
  }

  function clean(text: string): string {
    return token === undefined ? text : text.replaceAll(token, '[redacted]')
  }

  return link
}
