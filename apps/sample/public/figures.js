import { byId, element, write } from './dom.js'
import { bytes, count, limitNames, milliseconds, money, percent } from './format.js'

/** @typedef {import('../src/snapshot.ts').Snapshot} Snapshot */
/** @typedef {'good' | 'warn' | 'bad' | 'plain'} State */

/**
 * @param {Snapshot} snapshot
 * @param {'opened' | 'open' | 'busy' | 'requests' | 'reused'} name
 */
const sockets = ({ stats }, name) => Object.values(stats.origins).reduce((sum, origin) => sum + origin[name], 0)

/**
 * Every number of the page: where it stands in the snapshot and how it is written.
 *
 * @type {Record<string, [read: (snapshot: Snapshot) => number | null | undefined, write: (value: number) => string]>}
 */
const figures = {
  hitRate: [({ stats }) => stats.cache?.hitRate, percent],
  hits: [({ stats }) => stats.cache?.hits, count],
  joined: [({ stats }) => stats.cache?.joined, count],
  stale: [({ stats }) => stats.cache?.stale, count],
  misses: [({ stats }) => stats.cache?.misses, count],
  moneySaved: [({ stats }) => stats.moneySaved, money],
  moneySpent: [({ stats }) => stats.moneySpent, money],
  calls: [({ stats }) => stats.calls, count],
  failed: [({ stats }) => stats.failed, count],
  tokensSaved: [({ stats }) => stats.tokensSaved.input + stats.tokensSaved.output, count],
  tokensIn: [({ stats }) => stats.tokens.input, count],
  tokensOut: [({ stats }) => stats.tokens.output, count],
  tokensFitted: [({ stats }) => stats.tokensFitted, count],
  reuse: [(snapshot) => sockets(snapshot, 'reused') / sockets(snapshot, 'requests'), percent],
  socketsOpened: [(snapshot) => sockets(snapshot, 'opened'), count],
  socketsOpen: [(snapshot) => sockets(snapshot, 'open'), count],
  socketsBusy: [(snapshot) => sockets(snapshot, 'busy'), count],
  upstreamRequests: [(snapshot) => sockets(snapshot, 'requests'), count],
  firstText: [({ stats }) => stats.meanFirstContentMs, milliseconds],
  meanMs: [({ stats }) => stats.meanMs, milliseconds],
  cachedMs: [({ stats }) => stats.cachedMeanMs, milliseconds],
  overhead: [({ stats }) => stats.meanOverheadMs, milliseconds],
  running: [({ requests }) => requests.running, count],
  retries: [({ stats }) => stats.retries, count],
  heap: [({ memory }) => memory.heapUsedBytes, bytes],
  rss: [({ memory }) => memory.rssBytes, bytes],
  limiterRunning: [({ stats }) => stats.limits?.running, count],
  limiterQueued: [({ stats }) => stats.limits?.queued, count],
  limiterRefused: [
    ({ stats, requests }) => Object.values(stats.limits?.refused ?? {}).reduce((sum, one) => sum + one, requests.refused),
    count
  ],
  limiterWaited: [({ stats }) => stats.limits?.waitedMs, milliseconds],
  streams: [({ streams }) => streams.running, count],
  resumed: [({ streams }) => streams.resumed + streams.resumedElsewhere, count],
  uptime: [({ uptimeMs }) => uptimeMs, milliseconds]
}

/**
 * Puts the numbers into the `data` elements that name them; their `value` is the number as it came.
 */
export function createFigures() {
  const places = [...document.querySelectorAll('data[data-figure]')].map((place) => {
    const figure = figures[place.getAttribute('data-figure') ?? '']
    if (!(place instanceof HTMLDataElement) || figure === undefined) throw new TypeError(`no such figure: ${place.outerHTML}`)
    return { place, figure }
  })
  const limits = createStates('limits')
  const health = createStates('health')

  return {
    /** @param {Snapshot} snapshot */
    show(snapshot) {
      for (const { place, figure } of places) {
        const [read, written] = figure
        const value = read(snapshot)
        const known = typeof value === 'number' && Number.isFinite(value)
        place.value = known ? String(value) : ''
        write(place, known ? written(value) : '–')
      }
      const names = limitNames(Object.keys(snapshot.limits))
      limits.show(Object.values(snapshot.limits).map((state, place) => limitRow(names[place] ?? '', state)))
      byId('limits-empty', HTMLElement).hidden = Object.keys(snapshot.limits).length > 0
      health.show([
        redisRow(snapshot.redis),
        ...Object.entries(snapshot.stats.origins).map(([origin, { breaker }]) => breakerRow(origin, breaker))
      ])
    },

    /** @param {string | undefined} age how long ago this was so; undefined when it is so now */
    age(age) {
      limits.age(age)
      health.age(age)
    }
  }
}

/** @typedef {{ name: string, state: State, pill: string, text: string }} Row */

/**
 * @param {string} name
 * @param {Snapshot['limits'][string]} state
 * @returns {Row}
 */
function limitRow(name, { running, requestsLeft, tokensLeft, ceiling, pausedMs }) {
  // null is no bound.
  const parts = [
    `${count(running)} running${ceiling === null ? '' : ` of ${count(ceiling)}`}`,
    ...(requestsLeft === null ? [] : [`${count(Math.max(0, Math.floor(requestsLeft)))} requests left`]),
    ...(tokensLeft === null ? [] : [`${count(Math.max(0, Math.floor(tokensLeft)))} tokens left`])
  ]
  if (pausedMs > 0) return { name, state: 'warn', pill: `waits ${milliseconds(pausedMs)}`, text: parts.join(', ') }
  return { name, state: 'good', pill: 'open', text: parts.join(', ') }
}

/**
 * @param {Snapshot['redis']} redis
 * @returns {Row}
 */
function redisRow(redis) {
  if (redis === 'up') return { name: 'Redis', state: 'good', pill: 'up', text: 'shared cache, limits and streams' }
  if (redis === 'down') return { name: 'Redis', state: 'bad', pill: 'down', text: 'this process goes on from memory' }
  return { name: 'Redis', state: 'plain', pill: 'off', text: 'set REDIS_URL to share with replicas' }
}

/**
 * @param {string} origin
 * @param {'closed' | 'open' | 'half-open'} breaker
 * @returns {Row}
 */
function breakerRow(origin, breaker) {
  const name = `Breaker of ${origin.replace(/^https?:\/\//, '')}`
  if (breaker === 'closed') return { name, state: 'good', pill: 'closed', text: 'calls go through' }
  if (breaker === 'open') return { name, state: 'bad', pill: 'open', text: 'calls are refused at once' }
  return { name, state: 'warn', pill: 'half-open', text: 'one call tries' }
}

/**
 * A list of names with a pill each; rows are kept and changed, not made anew.
 *
 * @param {string} id
 */
function createStates(id) {
  const list = byId(id, HTMLUListElement)
  /** @type {readonly Row[]} */
  let known = []

  /** @param {readonly Row[]} rows */
  function put(rows) {
    while (list.children.length > rows.length) list.lastElementChild?.remove()
    for (const [place, { name, state, pill, text }] of rows.entries()) {
      const item =
        list.children[place] ??
        list.appendChild(
          element(
            'li',
            {},
            element('span', { class: 'name' }),
            element('span', { class: 'pill' }),
            element('span', { class: 'note' })
          )
        )
      const [nameAt, pillAt, textAt] = item.children
      if (nameAt === undefined || pillAt === undefined || textAt === undefined) continue
      write(nameAt, name)
      write(pillAt, pill)
      write(textAt, text)
      pillAt.setAttribute('data-state', state)
    }
  }

  return {
    /** @param {readonly Row[]} rows */
    show(rows) {
      known = rows
      put(rows)
    },
    /** Nothing is said to be so that only was. @param {string | undefined} age */
    age(age) {
      if (age === undefined) return put(known)
      put(known.map(({ name, pill }) => ({ name, state: 'plain', pill: `was ${pill}`, text: `last known ${age}` })))
    }
  }
}
