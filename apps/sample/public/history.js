/** @typedef {import('../src/snapshot.ts').Snapshot} Snapshot */

const keptMs = 120_000

/**
 * The last two minutes of one replica, as rates between snapshots.
 */
export function createHistory() {
  /** @type {{ at: number, asked: number, sent: number, lookups: number, answered: number }[]} */
  let points = []
  let replica = ''

  /**
   * The point that lies `ms` before another one, or the oldest.
   *
   * @param {number} index
   * @param {number} ms
   */
  function before(index, ms) {
    const at = (points[index]?.at ?? 0) - ms
    let place = index
    while (place > 0 && (points[place - 1]?.at ?? 0) >= at - 500) place--
    return points[place]
  }

  return {
    /** @param {Snapshot} snapshot */
    add({ at, replica: from, stats }) {
      const { hits = 0, stale = 0, joined = 0, misses = 0 } = stats.cache ?? {}
      const answered = hits + stale + joined
      const sent = Object.values(stats.origins).reduce((sum, origin) => sum + origin.requests, 0)
      // Ended and running: a call counts when it begins, as what is sent for it does.
      const asked = stats.calls + stats.running
      const last = points.at(-1)
      // Another replica behind the balancer, or this one started anew: its counts have nothing to do with those before. Nor
      // has a clock that was set back: its old points would stay for as long.
      if (from !== replica || (last !== undefined && (asked < last.asked || at < last.at))) points = []
      replica = from
      points.push({ at, asked, sent, lookups: answered + misses, answered })
      points = points.filter((point) => point.at > at - keptMs)
    },

    /** Seconds before the last snapshot, and for each what happened a second: over 3 seconds, the hit rate over 10. */
    series() {
      const now = points.at(-1)?.at ?? 0
      const ago = points.map((point) => (point.at - now) / 1000)
      /** @type {(number | null)[]} */
      const asked = []
      /** @type {(number | null)[]} */
      const sent = []
      /** @type {(number | null)[]} */
      const hitRate = []
      for (const [index, point] of points.entries()) {
        const near = before(index, 3000) ?? point
        const far = before(index, 10_000) ?? point
        const seconds = (point.at - near.at) / 1000
        asked.push(seconds > 0 ? (point.asked - near.asked) / seconds : null)
        sent.push(seconds > 0 ? (point.sent - near.sent) / seconds : null)
        const lookups = point.lookups - far.lookups
        hitRate.push(lookups > 0 ? (point.answered - far.answered) / lookups : null)
      }
      return { ago, asked, sent, hitRate }
    },

    /** What happened in all of the time that is kept. */
    totals() {
      const first = points[0]
      const last = points.at(-1)
      if (first === undefined || last === undefined) return { asked: 0, sent: 0, lookups: 0, answered: 0 }
      return {
        asked: last.asked - first.asked,
        sent: last.sent - first.sent,
        lookups: last.lookups - first.lookups,
        answered: last.answered - first.answered
      }
    }
  }
}
