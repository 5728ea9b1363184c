import type { Socket } from 'node:net'
import { abortable, type HttpRequest, MillraceError } from '@millrace/core'
import { Connection } from './connection.ts'
import type { Connecting, Connector, ConnectTarget } from './connector.ts'

/** What one origin's sockets did and do. */
export interface OriginStats {
  /** Sockets opened since the start, ahead by `warm` included. */
  readonly opened: number
  /** Sockets open now, idle ones included. */
  readonly open: number
  /** Exchanges running now, their bodies included. */
  readonly busy: number
  /** Requests waiting for a socket. */
  readonly queued: number
  /** Requests sent, every attempt counted. */
  readonly requests: number
  /** Requests that found their socket open: it had carried one before, or was warmed. */
  readonly reused: number
}

export interface OriginOptions {
  readonly maxConnections: number
  readonly maxQueue: number
  readonly keepAliveMs: number
  readonly http2: boolean
}

interface Waiter {
  resolve(connection: Connection): void
  reject(error: unknown): void
}

/**
 * The connections to one scheme, host and port, at most `maxConnections` of them, and the queue before them, first come
 * first served. It owns what undici's pool would own, for three reasons: the connection used last is used next, so calls in
 * a row need one socket; a queue has a bound, and an aborted call leaves it at once; and a connection on its way ends with
 * the exchange it was opened for. An HTTP/2 session that is to end (the server said so, it is too old, a clock fired on it)
 * is counted no more: its last calls may run beside as many as the bound allows.
 */
export class Origin {
  readonly name: string
  readonly options: OriginOptions
  /** Headers and absolute form for an http proxy; absent where requests go straight or through a tunnel. */
  readonly forward: { readonly headers: Readonly<Record<string, string>> } | undefined
  readonly connections: Set<Connection> = new Set()
  requests = 0
  reused = 0
  readonly #target: ConnectTarget
  readonly #connector: Connector
  /** Those with room; the one used last is at the end and goes first. */
  readonly #free: Connection[] = []
  readonly #waiting = new Set<Waiter>()
  /** Those whose request was lost with an idle socket: they go first, and to a socket nobody has used. */
  readonly #again = new Set<Waiter>()
  #opened = 0
  #open = 0
  readonly #changed: () => void
  /** Ending, and counted no more: sessions that are too old, silent, or told to go by the server. */
  readonly #leaving = new Set<Connection>()
  /** Whether HTTP/2 carries many calls on one socket is known when it stands: meanwhile no other is opened. */
  #oneByOne: boolean
  #next: Connection | undefined
  #ended: Error | undefined

  /** `changed` is called whenever something has ended here. */
  constructor(name: string, connector: Connector, options: OriginOptions, changed: () => void) {
    this.name = name
    this.#changed = changed
    this.options = options
    this.#connector = connector
    const { protocol, hostname, port } = new URL(name)
    if (protocol !== 'http:' && protocol !== 'https:') throw new TypeError('an origin begins with http:// or https://')
    const isSecure = protocol === 'https:'
    // An IPv6 address stands in brackets only inside a URL.
    this.#target = {
      protocol,
      hostname: hostname.replace(/^\[|\]$/g, ''),
      port: port === '' ? (isSecure ? 443 : 80) : Number(port)
    }
    this.#oneByOne = options.http2 && isSecure
    this.forward = connector.forward(this.#target)
  }

  get queued(): number {
    return this.#waiting.size + this.#again.size
  }

  get idle(): boolean {
    if (this.queued > 0) return false
    for (const { taken } of this.connections) if (taken > 0) return false
    return this.#leaving.size === 0
  }

  /** A connection with a place in it, the place taken; `undefined` when all are busy. */
  take(): Connection | undefined {
    for (let connection = this.#free.at(-1); connection !== undefined; connection = this.#free.at(-1)) {
      if (connection.old) {
        connection.retire()
        continue
      }
      connection.taken++
      if (connection.full) this.#unlist(connection)
      return connection
    }
    return this.#mayOpen() ? this.#add() : undefined
  }

  /** One whose socket nobody has used, over HTTP/1.1; where all places are taken, an idle one is closed for it. */
  takeFresh(): Connection | undefined {
    if (this.connections.size >= this.options.maxConnections) this.#free.find(({ taken }) => taken === 0)?.discard()
    return this.#mayOpen() ? this.#add() : this.take()
  }

  /**
   * Resolves when there is a place: for a `fresh` one ahead of all others, and whatever the bound of the queue, for that
   * request has been let in before.
   *
   * @throws {MillraceError} `queue-full`; `signal.reason`
   */
  async wait({ signal, deadline }: HttpRequest, which: 'any' | 'fresh'): Promise<Connection> {
    const { maxConnections, maxQueue } = this.options
    const queue = which === 'any' ? this.#waiting : this.#again
    if (queue === this.#waiting && queue.size >= maxQueue) {
      throw new MillraceError(
        'queue-full',
        `${maxConnections} connections are busy and ${maxQueue} requests wait (maxConnections, maxQueue)`,
        { details: { limit: maxQueue } }
      )
    }
    const { promise, resolve, reject } = Promise.withResolvers<Connection>()
    const waiter = { resolve, reject }
    queue.add(waiter)
    if (deadline !== undefined) deadline.queued = true
    try {
      return await abortable(promise, signal)
    } catch (error) {
      // Not in the queue any more means that a place was handed over in the same moment: it is passed on.
      if (!queue.delete(waiter)) {
        promise.then(
          (connection) => connection.giveBack(),
          () => {}
        )
      }
      throw error
    } finally {
      if (deadline !== undefined) deadline.queued = false
      this.#changed()
    }
  }

  /** Opens sockets until there are `count` connections, or as many as there may be. */
  async warm(count: number, connectMs: number, signal: AbortSignal): Promise<void> {
    for (;;) {
      const opening: Promise<void>[] = []
      while (this.connections.size < count && this.#mayOpen()) opening.push(this.#add().warm(connectMs, signal))
      if (opening.length === 0) return
      const failure = (await Promise.allSettled(opening)).find(({ status }) => status === 'rejected')
      if (failure?.status === 'rejected') throw failure.reason
    }
  }

  connect(callback: (error: Error | null, socket: Socket | null) => void): Connecting {
    return this.#connector.connect(this.#target, callback)
  }

  /** Ends all there is with `error`: those who wait, the connections with what runs on them, and who comes later. */
  close(error: Error): void {
    this.#ended = error
    for (const queue of [this.#again, this.#waiting]) {
      for (const waiter of queue) waiter.reject(error)
      queue.clear()
    }
    for (const connection of [...this.connections, ...this.#leaving]) {
      for (const exchange of connection.exchanges.slice()) exchange.fail(error)
      connection.discard()
    }
  }

  stats(): OriginStats {
    let busy = 0
    for (const { exchanges } of this.connections) busy += exchanges.length
    for (const { exchanges } of this.#leaving) busy += exchanges.length
    const { requests, reused, queued } = this
    return { opened: this.#opened, open: this.#open, busy, queued, requests, reused }
  }

  // what its connections tell

  opened(connection: Connection, socket: Socket): void {
    this.#opened++
    this.#open++
    socket.once('close', () => this.#open--)
    if (this.#next === connection) this.#next = undefined
    this.#oneByOne = connection.multiplexed
    // One that is being warmed lists itself when it is.
    if (!connection.full && connection.exchanges.length > 0) this.#list(connection)
    this.#serve()
  }

  /** A connection could not be opened: nobody is to wait for the next to try in vain as well. */
  unreachable(): void {
    this.#oneByOne = false
  }

  freed(connection: Connection): void {
    this.#list(connection)
    this.#serve()
    this.#changed()
  }

  retired(connection: Connection): void {
    this.connections.delete(connection)
    this.#leaving.add(connection)
    this.#unlist(connection)
    this.#serve()
  }

  gone(connection: Connection): void {
    this.connections.delete(connection)
    this.#leaving.delete(connection)
    if (this.#next === connection) this.#next = undefined
    this.#unlist(connection)
    this.#serve()
    this.#changed()
  }

  #list(connection: Connection): void {
    if (connection.listed || this.#leaving.has(connection)) return
    connection.listed = true
    this.#free.push(connection)
  }

  #unlist(connection: Connection): void {
    if (!connection.listed) return
    connection.listed = false
    if (this.#free.at(-1) === connection) this.#free.pop()
    else this.#free.splice(this.#free.indexOf(connection), 1)
  }

  #serve(): void {
    while (this.queued > 0) {
      const queue = this.#again.size > 0 ? this.#again : this.#waiting
      const connection = queue === this.#again ? this.takeFresh() : this.take()
      if (connection === undefined) return
      const [next] = queue as Iterable<Waiter>
      if (next === undefined) return connection.giveBack()
      queue.delete(next)
      next.resolve(connection)
    }
  }

  #mayOpen(): boolean {
    if (this.#ended !== undefined) throw this.#ended
    if (this.#oneByOne && this.#next !== undefined) return false
    return this.connections.size < this.options.maxConnections
  }

  #add(): Connection {
    const connection = new Connection(this)
    connection.taken = 1
    this.connections.add(connection)
    if (this.#oneByOne) this.#next = connection
    return connection
  }
}
