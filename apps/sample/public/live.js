import { Refused } from './api.js'
import { delay } from './dom.js'
import { readEvents } from './events.js'

/** @typedef {import('../src/snapshot.ts').Snapshot} Snapshot */
/** @typedef {'live' | 'paused' | 'waiting' | 'refused'} Connection */

/** A snapshot comes each second: after so long without one the gateway hangs, or the way to it is lost without a word. */
const silentMs = 4000
/** The first may come over a slow network, and nothing is called live before it. */
const firstMs = 10_000

/**
 * Snapshots as the gateway sends them, one a second. It connects again when the connection ends or is silent, and holds none
 * while the tab is hidden: a browser has six connections to a server, for all its tabs together.
 *
 * @param {import('./api.js').Api} api
 * @param {{ onSnapshot: (snapshot: Snapshot) => void, onState: (state: Connection) => void }} options
 */
export function createLive(api, { onSnapshot, onState }) {
  let paused = false
  let connection = new AbortController()

  async function listen() {
    connection.abort()
    const mine = new AbortController()
    connection = mine
    if (paused) return onState('paused')
    if (document.hidden) return
    for (let failures = 0; !mine.signal.aborted; failures++) {
      onState('waiting')
      const silence = new AbortController()
      const hush = () => silence.abort()
      let clock = setTimeout(hush, firstMs)
      try {
        const signal = AbortSignal.any([mine.signal, silence.signal])
        for await (const { data } of readEvents(await api.fetch('/v1/live', { signal }))) {
          clearTimeout(clock)
          clock = setTimeout(hush, silentMs)
          failures = 0
          onState('live')
          onSnapshot(JSON.parse(data))
        }
      } catch (error) {
        if (mine.signal.aborted) return
        // Asking again would bring the same answer; a new token connects again.
        if (error instanceof Refused && (error.status === 401 || error.status === 403)) return onState('refused')
        // The network's: it is tried again, and the pill says so. A mistake of the page's own must not hide behind that.
        if (!(error instanceof Refused || error instanceof TypeError || error instanceof DOMException)) throw error
      } finally {
        clearTimeout(clock)
      }
      if (!mine.signal.aborted) onState('waiting')
      await delay(Math.min(5000, 500 * 2 ** failures), mine.signal)
    }
  }

  document.addEventListener('visibilitychange', listen)
  return {
    /** Begins, or begins anew with another token. */
    connect: listen,
    /** @param {{ paused: boolean }} wanted */
    set(wanted) {
      paused = wanted.paused
      return listen()
    }
  }
}
