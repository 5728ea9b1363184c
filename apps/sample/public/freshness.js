import { byId, write } from './dom.js'
import { milliseconds } from './format.js'

/** @typedef {import('./live.js').Connection} Connection */

/** @type {Record<Exclude<Connection, 'live'>, string>} */
const reasons = {
  waiting: 'No word from the gateway.',
  paused: 'Paused.',
  refused: 'The gateway gives no access.'
}

/**
 * Says how old the figures are while they are not live. What was good a second ago may still be: nothing is said for so long,
 * so that a look at another tab makes no noise.
 *
 * @param {(age: string | undefined) => void} onAge such as `12 s ago`, each second; undefined when they are live again
 */
export function createFreshness(onAge) {
  const live = byId('live', HTMLElement)
  const banner = byId('stale', HTMLElement)
  const said = byId('stale-said', HTMLElement)
  let seenAt = Number.NaN
  /** @type {ReturnType<typeof setInterval> | undefined} */
  let ticking

  /** @param {string} reason */
  function tell(reason) {
    // Nothing was shown yet that could be old.
    if (Number.isNaN(seenAt)) return
    const age = `${milliseconds(Math.floor((performance.now() - seenAt) / 1000) * 1000)} ago`
    live.dataset.stale = ''
    banner.hidden = false
    write(byId('stale-why', HTMLElement), reason)
    write(byId('stale-age', HTMLElement), age)
    // Without the age, which would be read out each second.
    write(said, `${reason} The figures are not current.`)
    onAge(age)
  }

  return {
    seen() {
      seenAt = performance.now()
    },
    /** @param {Connection} connection */
    set(connection) {
      clearInterval(ticking)
      if (connection !== 'live') {
        ticking = setInterval(tell, 1000, reasons[connection])
        if (!banner.hidden) tell(reasons[connection])
        return
      }
      if (banner.hidden) return
      delete live.dataset.stale
      banner.hidden = true
      write(said, 'The figures are live again.')
      onAge(undefined)
    }
  }
}
