import { checkOptions, MillraceError } from '@millrace/core'

export interface AdmissionOptions {
  /** Requests under way at a time, of all together. */
  readonly maxRequests: number
  /** And of one client. */
  readonly maxRequestsPerClient: number
}

export interface AdmissionStats {
  /** Under way. */
  readonly running: number
  /** Since the start: those that came in, and those that were turned away. */
  readonly total: number
  readonly refused: number
}

/** The number of requests a gateway works on at a time. */
export interface Admission {
  /**
   * Counts a request in, and gives what counts it out; once, however often that is called.
   *
   * @throws {MillraceError} `rate-limited`, to be tried again in 1000 ms, where too many are under way
   */
  enter(client: string): () => void
  stats(): AdmissionStats
}

/**
 * Bounds the requests under way, so that a crowd is told to come again instead of filling the memory, and no single client
 * takes every place. What it keeps of a client goes with its last request.
 *
 * @throws {TypeError} for bounds that are no whole numbers from 1 up
 *
 * @example
 * const leave = createAdmission({ maxRequests: 1000, maxRequestsPerClient: 200 }).enter('tenant a')
 */
export function createAdmission(options: AdmissionOptions): Admission {
  checkOptions<AdmissionOptions>('createAdmission', options, { maxRequests: 1, maxRequestsPerClient: 1 })
  const { maxRequests, maxRequestsPerClient } = options
  for (const [name, value] of Object.entries({ maxRequests, maxRequestsPerClient })) {
    if (!Number.isSafeInteger(value) || value < 1) throw new TypeError(`${name} must be a whole number from 1 up`)
  }
  const ofClient = new Map<string, number>()
  let running = 0
  let total = 0
  let refused = 0

  function leave(client: string): void {
    running--
    const left = (ofClient.get(client) as number) - 1
    if (left === 0) ofClient.delete(client)
    else ofClient.set(client, left)
  }

  return {
    enter(client) {
      const own = ofClient.get(client) ?? 0
      if (running >= maxRequests || own >= maxRequestsPerClient) {
        refused++
        const whose = running >= maxRequests ? `${maxRequests} requests` : `${maxRequestsPerClient} requests of this client`
        throw new MillraceError('rate-limited', `${whose} are under way already`, { details: { retryAfterMs: 1000 } })
      }
      ofClient.set(client, own + 1)
      running++
      total++
      let isInside = true
      return () => {
        if (isInside) leave(client)
        isInside = false
      }
    },
    stats: () => ({ running, total, refused })
  }
}
