import type { Socket } from 'node:net'
import { clampTimer, isMillraceError, onAbort, startDeadline } from '@millrace/core'
import { Client, type Dispatcher } from 'undici'
import type { Connecting } from './connector.ts'
import type { Exchange } from './exchange.ts'
import type { Origin } from './origin.ts'
import { wireError } from './wire-error.ts'

/** Streams of one HTTP/2 session at a time; what most servers allow. */
const streamsPerSession = 100

/** A socket this old is not used again, so that a changed DNS record is followed. */
const maxAgeMs = 600_000

/** Between two tries to send again what a session that is ending did not take. */
const reconnectMs = 250

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
  /** Requests the present socket has carried; one that was warmed begins at 1, for it may have been closed as well. */
  served = 0
  /** The present one, or the last: what it has read is still asked for when it is gone. */
  socket: Socket | undefined
  readonly #origin: Origin
  readonly #client: Client
  #openedAt = performance.now()
  #multiplexed = false
  #connecting: Connecting | undefined
  /** More than one only where a session is told to go: its streams end on it, what it has not taken goes to another. */
  #sockets: readonly Socket[] = []
  #retired = false
  #discarded = false

  constructor(origin: Origin) {
    this.#origin = origin
    const { http2 } = origin.options
    const keepAliveMs = clampTimer(origin.options.keepAliveMs)
    this.#client = new Client(origin.name, {
      // Requests on HTTP/1.1 at a time, of which the pool gives it one. For HTTP/2 it is also how many streams may still run
      // on a session that was told to go while undici opens the next.
      pipelining: http2 ? streamsPerSession : 1,
      allowH2: http2,
      keepAliveTimeout: keepAliveMs,
      // The server's hint may only shorten it.
      keepAliveMaxTimeout: keepAliveMs,
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

  get multiplexed(): boolean {
    return this.#multiplexed
  }

  get old(): boolean {
    return performance.now() - this.#openedAt > maxAgeMs
  }

  dispatch(options: Dispatcher.DispatchOptions, exchange: Exchange): void {
    this.exchanges.push(exchange)
    this.#client.dispatch(options, exchange)
  }

  /** The exchange is over and has left the socket usable. */
  release(exchange: Exchange): void {
    this.#remove(exchange)
    this.giveBack()
  }

  /** The exchange has failed: over HTTP/1.1 the rest of its response is still on the socket. */
  drop(exchange: Exchange, error: unknown): void {
    this.#remove(exchange)
    const isTimeout = isMillraceError(error, 'timeout')
    if (isTimeout && this.#connecting !== undefined) this.#origin.unreachable()
    if (!this.#multiplexed && this.exchanges.length === 0) return this.discard()
    // The line may be dead without TCP noticing it for minutes: the others on it may wait, nobody is to follow.
    if (isTimeout) this.#retire()
    this.giveBack()
  }

  #remove(exchange: Exchange): void {
    const at = this.exchanges.indexOf(exchange)
    if (at !== -1) this.exchanges.splice(at, 1)
  }

  /** A place that was taken is free again. */
  giveBack(): void {
    if (this.#discarded) return
    this.taken--
    const isUsable = this.socket?.destroyed === false && !this.#retired
    if (this.taken === 0 && !isUsable) this.discard()
    else this.#origin.freed(this)
  }

  /** Nobody is given a place on it any more; it closes behind the last exchange. */
  retire(): void {
    if (this.taken === 0) this.discard()
    else this.#retire()
  }

  #retire(): void {
    if (this.#retired || this.#discarded) return
    this.#retired = true
    this.#origin.retired(this)
  }

  /** Closes the socket, also one that is on its way, and gives up the place in the pool. */
  discard(): void {
    if (this.#discarded) return
    this.#discarded = true
    const reason = nobody()
    this.#connecting?.destroy(reason)
    const endClient = (): void => this.#client.destroy(reason, () => {})
    // undici leaves the end of a session that was told to go to the server.
    const endSockets = (): void => {
      for (const socket of this.#sockets) socket.destroy()
    }
    if (this.#multiplexed) {
      // In turns of their own, and without an error for the streams: undici listens no more to those it has ended.
      setImmediate(() => {
        endSockets()
        setImmediate(endClient)
      })
    } else {
      endClient()
      endSockets()
    }
    this.#origin.gone(this)
  }

  /** Opens the socket ahead of the first request. The place is taken meanwhile. */
  async warm(connectMs: number, signal: AbortSignal): Promise<void> {
    const { promise, resolve, reject } = Promise.withResolvers<void>()
    // undici opens a socket for a request only. This one ends when it is to be written, and nothing of it is sent.
    const handler: Dispatcher.DispatchHandler = {
      onRequestStart() {
        resolve()
        throw nobody()
      },
      onResponseStart() {},
      onResponseData() {},
      onResponseEnd() {},
      onResponseError: (_, error) => reject(wireError(error, 'connect'))
    }
    using _ = startDeadline('connect', connectMs, (error) => {
      this.#origin.unreachable()
      reject(error)
    })
    const off = onAbort(signal, reject)
    try {
      this.#client.dispatch({ path: '/', method: 'GET' }, handler)
      await promise
      this.served = 1
      this.giveBack()
    } catch (error) {
      this.discard()
      throw error
    } finally {
      off()
    }
  }

  #connect(callback: Connected): void {
    for (const exchange of this.exchanges) exchange.startConnectClock()
    this.#connecting = this.#origin.connect((error, socket) => {
      this.#connecting = undefined
      if (socket !== null) {
        this.#opened(socket)
        return callback(null, socket)
      }
      const reason = error ?? nobody() // with no socket there is an error
      if (!this.#discarded) this.#origin.unreachable()
      if (!this.#retired) return callback(reason, null)
      // undici tells nobody while streams still run on the session before, and tries again at once.
      setTimeout(callback, reconnectMs, reason, null).unref()
    })
  }

  #opened(socket: Socket): void {
    this.socket = socket
    this.#sockets = [...this.#sockets.filter(({ destroyed }) => !destroyed), socket]
    this.served = 0
    this.#openedAt = performance.now()
    this.#multiplexed = 'alpnProtocol' in socket && socket.alpnProtocol === 'h2'
    this.#origin.opened(this, socket)
  }

  #disconnected(): void {
    // With an exchange on it that had not begun yet, undici opens the next socket by itself.
    if (this.taken === 0) this.discard()
    // A server that says goodbye lets its streams end.
    else if (this.#multiplexed) this.#retire()
  }
}

type Connected = (...result: [error: null, socket: Socket] | [error: Error, socket: null]) => void

function nobody(): Error {
  return new Error('nobody waits for this connection any more')
}
