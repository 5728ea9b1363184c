import type { Socket } from 'node:net'
import { onAbort, startDeadline } from '@millrace/core'
import { Client, type Dispatcher } from 'undici'
import type { Connecting } from './connector.ts'
import type { Exchange } from './exchange.ts'
import type { Origin } from './origin.ts'

/** Streams of one HTTP/2 session at a time; what most servers allow. */
const streamsPerSession = 100

/** A socket this old is not used again, so that a changed DNS record is followed. */
const maxAgeMs = 600_000

/**
 * A place in the pool: an undici client, which holds at most one socket, and the exchanges on it. One over HTTP/1.1, many
 * over HTTP/2. A class, for it is the hot path.
 */
export class Connection {
  /** Exchanges on this connection. */
  readonly exchanges: Exchange[] = []
  /** Places given away, whether their exchange has begun or not. */
  taken = 0
  /** Whether its origin has it in the list of those with room; the origin's own mark. */
  listed = false
  /** Requests the present socket has carried. */
  served = 0
  socket: Socket | undefined
  readonly #origin: Origin
  readonly #client: Client
  #openedAt = performance.now()
  #multiplexed = false
  #connecting: Connecting | undefined
  #warm: Socket | undefined
  #discarded = false

  constructor(origin: Origin) {
    this.#origin = origin
    const { keepAliveMs, http2 } = origin.options
    this.#client = new Client(origin.name, {
      pipelining: 1,
      allowH2: http2,
      keepAliveTimeout: keepAliveMs,
      // undici's own timers are coarse and end at 300 s: all off, the exchange's clocks decide.
      headersTimeout: 0,
      bodyTimeout: 0,
      ...(http2 ? { h2Options: { maxConcurrentStreams: streamsPerSession } } : {}),
      connect: (_, callback) => this.#connect(callback)
    })
    this.#client.on('disconnect', () => this.#disconnected())
  }

  /** Whether it can take another exchange. */
  get full(): boolean {
    return this.taken >= (this.#multiplexed ? streamsPerSession : 1)
  }

  get connecting(): boolean {
    return this.#connecting !== undefined
  }

  get stale(): boolean {
    return this.taken === 0 && performance.now() - this.#openedAt > maxAgeMs
  }

  dispatch(options: Dispatcher.DispatchOptions, exchange: Exchange): void {
    this.exchanges.push(exchange)
    this.#client.dispatch(options, exchange)
  }

  /** The exchange is over and has left the socket usable. */
  release(exchange: Exchange): void {
    this.#remove(exchange)
    if (this.#multiplexed || this.socket?.destroyed === false) this.giveBack()
    else this.discard()
  }

  /** The exchange has failed: over HTTP/1.1 the rest of its response is still on the socket. */
  drop(exchange: Exchange): void {
    this.#remove(exchange)
    if (this.#multiplexed || this.exchanges.length > 0) this.giveBack()
    else this.discard()
  }

  #remove(exchange: Exchange): void {
    const at = this.exchanges.indexOf(exchange)
    if (at !== -1) this.exchanges.splice(at, 1)
  }

  /** A place that was taken is free again. */
  giveBack(): void {
    if (this.#discarded) return
    this.taken--
    this.#origin.freed(this)
  }

  /** Closes the socket, also one that is on its way, and gives up the place in the pool. */
  discard(): void {
    if (this.#discarded) return
    this.#discarded = true
    const reason = nobody()
    this.#connecting?.destroy(reason)
    this.#warm?.destroy()
    this.#client.destroy(reason, () => {})
    this.#origin.gone(this)
  }

  /** Opens the socket ahead of the first request. The place is taken meanwhile. */
  async warm(connectMs: number, signal: AbortSignal): Promise<void> {
    const { promise, resolve, reject } = Promise.withResolvers<Socket>()
    this.#connecting = this.#open((error, socket) => (socket === null ? reject(error) : resolve(socket)))
    using _ = startDeadline('connect', connectMs, reject)
    const off = onAbort(signal, reject)
    try {
      const socket = await promise
      this.#warm = socket
      socket.unref()
      socket.setTimeout(this.#origin.options.keepAliveMs, () => this.discard())
      // Nothing is expected on a socket nobody has written to: whatever comes is its end.
      for (const event of ['close', 'error', 'readable']) socket.once(event, this.#cooled)
      this.giveBack()
    } catch (error) {
      this.discard()
      throw error
    } finally {
      off()
    }
  }

  readonly #cooled = (): void => this.discard()

  #connect(callback: Connected): void {
    const socket = this.#warm
    if (socket !== undefined) {
      this.#warm = undefined
      socket.setTimeout(0)
      socket.ref()
      for (const event of ['close', 'error', 'readable']) socket.off(event, this.#cooled)
      // undici is still inside the dispatch that asks for it.
      queueMicrotask(() => callback(null, socket))
      return
    }
    for (const exchange of this.exchanges) exchange.startConnectClock()
    this.#connecting = this.#open((error, opened) => {
      // With an error there is no socket, and the other way round.
      if (opened === null) callback(error ?? nobody(), null)
      else callback(null, opened)
    })
  }

  #open(callback: (error: Error | null, socket: Socket | null) => void): Connecting {
    return this.#origin.connect((error, socket) => {
      this.#connecting = undefined
      if (socket !== null) this.#opened(socket)
      callback(error, socket)
    })
  }

  #opened(socket: Socket): void {
    this.socket = socket
    this.served = 0
    this.#openedAt = performance.now()
    this.#multiplexed = 'alpnProtocol' in socket && socket.alpnProtocol === 'h2'
    this.#origin.opened(this, socket)
  }

  #disconnected(): void {
    this.socket = undefined
    // With an exchange on it that had not begun yet, undici opens the next socket by itself.
    if (this.taken === 0) this.discard()
  }
}

type Connected = (...result: [error: null, socket: Socket] | [error: Error, socket: null]) => void

function nobody(): Error {
  return new Error('nobody waits for this connection any more')
}
