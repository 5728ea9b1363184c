import { byId, write } from './dom.js'
import { count, milliseconds, percent } from './format.js'
import { createHistory } from './history.js'
import uPlot from './uPlot.esm.js'

/** @typedef {import('../src/snapshot.ts').Snapshot} Snapshot */
/** @typedef {import('../src/snapshot.ts').HistogramSnapshot} Histogram */

/** Between the lines of an axis that counts: there is no half a call. */
const wholeSteps = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000, 20_000, 50_000, 100_000]

const histograms = /** @type {const} */ (['firstText', 'duration', 'overhead'])

/**
 * The charts of the page. Each says in its caption what it shows, for those who do not see it.
 */
export function createCharts() {
  const history = createHistory()
  const rate = lines('plot-rate', [solid('--accent', '--accent-soft'), dashed('--text')], (value) => count(value))
  const hits = lines('plot-hits', [solid('--accent', '--accent-soft')], (value) => percent(value), [0, 1])
  const bars = histograms.map((name) => ({ name, draw: histogram(`plot-${name}`) }))

  return {
    /** @param {Snapshot} snapshot */
    show(snapshot) {
      history.add(snapshot)
      const { ago, asked, sent, hitRate } = history.series()
      rate.setData([ago, asked, sent])
      hits.setData([ago, hitRate])
      const { asked: all, sent: out, lookups, answered } = history.totals()
      caption(
        'rate',
        all === 0
          ? 'Nothing was asked in the last 2 minutes.'
          : `Last 2 minutes: ${count(all)} asked, ${count(out)} sent; now ${now(asked)} and ${now(sent)} a second.`
      )
      caption(
        'hits',
        lookups === 0
          ? 'Nothing was looked up in the last 2 minutes.'
          : `Last 2 minutes: ${count(answered)} of ${count(lookups)} lookups needed no call of their own (${percent(answered / lookups)}).`
      )
      for (const { name, draw } of bars) {
        draw(snapshot.histograms[name])
        caption(name, words(snapshot.histograms[name], name === 'firstText' ? 'stream' : 'call'))
      }
    },

    /** After a change of the colours. */
    redraw() {
      for (const one of [rate, hits, ...bars.map(({ draw }) => draw)]) one.redraw()
    }
  }
}

/** @param {readonly (number | null)[]} values */
const now = (values) => (values.at(-1) ?? 0).toFixed(1).replace(/\.0$/, '')

/**
 * @param {string} name
 * @param {string} text
 */
const caption = (name, text) => write(byId(`text-${name}`, HTMLElement), text)

/**
 * Where the counts lie, by the bounds of their buckets: nothing is guessed between them.
 *
 * @param {Histogram} histogram
 * @param {string} what
 */
function words({ bounds, counts, sum }, what) {
  const all = counts.reduce((total, one) => total + one, 0)
  if (all === 0) return `No ${what} yet: ask something.`
  /** @param {number} share */
  function within(share) {
    let seen = 0
    const place = counts.findIndex((one) => (seen += one) >= all * share)
    const bound = bounds[place]
    return bound === undefined ? `above ${milliseconds((bounds.at(-1) ?? 0) * 1000)}` : `within ${milliseconds(bound * 1000)}`
  }
  return `${count(all)} ${what}${all === 1 ? '' : 's'}, mean ${milliseconds((sum / all) * 1000)}: half ${within(0.5)}, 95 of 100 ${within(0.95)}.`
}

/**
 * A colour of the style sheet as canvas takes it: `light-dark()` is resolved by a property that is a colour.
 *
 * @param {string} name
 */
function colour(name) {
  const probe = byId('live', HTMLElement)
  probe.style.setProperty('outline-color', `var(${name})`)
  return getComputedStyle(probe).outlineColor
}

/**
 * @param {string} stroke
 * @param {string} fill
 * @returns {uPlot.Series}
 */
const solid = (stroke, fill) => ({
  stroke: () => colour(stroke),
  fill: () => colour(fill),
  width: 2,
  points: { size: 4, fill: () => colour(stroke) }
})

/**
 * @param {string} stroke
 * @returns {uPlot.Series}
 */
const dashed = (stroke) => ({ stroke: () => colour(stroke), width: 1.5, dash: [5, 4], points: { show: false } })

/** @returns {uPlot.Axis} */
const axis = () => ({
  stroke: () => colour('--muted'),
  grid: { stroke: () => colour('--line'), width: 1 },
  ticks: { show: false },
  font: '11px system-ui, sans-serif'
})

/**
 * @param {string} id
 * @param {uPlot.Series[]} series
 * @param {(value: number) => string} label
 * @param {[number, number]} [range]
 */
function lines(id, series, label, range) {
  return plot(id, {
    scales: {
      x: { time: false, range: [-120, 0] },
      y: { range: range ?? ((_plot, _low, high) => [0, Math.max(2, (high ?? 0) * 1.15)]) }
    },
    series: [{}, ...series],
    axes: [
      {
        ...axis(),
        size: 24,
        splits: () => [-120, -90, -60, -30, 0],
        values: (_plot, splits) => splits.map((at) => (at === 0 ? 'now' : `${-at} s`))
      },
      {
        ...axis(),
        size: 44,
        incrs: range === undefined ? wholeSteps : [0.25, 0.5],
        values: (_plot, splits) => splits.map((value) => label(value))
      }
    ]
  })
}

/**
 * Bars between the bounds of the buckets, from the first that holds something to the last.
 *
 * @param {string} id
 */
function histogram(id) {
  /** @type {readonly number[]} */
  let bounds = []
  let first = 0
  let last = 8
  const bars = plot(id, {
    scales: {
      x: { time: false, range: () => [first, last] },
      y: { range: (_plot, _low, high) => [0, Math.max(4, (high ?? 0) * 1.1)] }
    },
    series: [
      {},
      {
        stroke: () => colour('--accent'),
        fill: () => colour('--accent'),
        width: 0,
        paths: uPlot.paths.bars?.({ size: [0.86, 80], radius: 0.12 }) ?? (() => null),
        points: { show: false }
      }
    ],
    axes: [
      {
        ...axis(),
        grid: { show: false },
        size: 24,
        splits: () => Array.from({ length: last - first - 1 }, (_, place) => first + 1 + place),
        // Five of them at most: more would touch.
        values: (_plot, splits) =>
          splits.map((at, place) => {
            const bound = place % Math.ceil(splits.length / 5) === 0 ? bounds[at - 1] : undefined
            return bound === undefined ? '' : short(bound * 1000)
          })
      },
      { ...axis(), size: 44, incrs: wholeSteps }
    ]
  })

  /** @param {Histogram} given */
  function draw(given) {
    // Before the first call there is not even a scale.
    if (given.counts.length === 0) return
    bounds = given.bounds
    const filled = given.counts.map((one, place) => (one > 0 ? place : -1)).filter((place) => place >= 0)
    const low = filled[0] ?? 3
    const high = filled.at(-1) ?? 9
    // At least eight, so that a few bars do not look like a wall.
    first = Math.max(0, Math.min(low - 1, Math.floor((low + high) / 2) - 3))
    last = Math.min(given.counts.length, Math.max(high + 2, first + 8))
    bars.setData([given.counts.map((_, place) => place + 0.5), [...given.counts]])
  }
  return Object.assign(draw, { redraw: () => bars.redraw() })
}

/** @param {number} ms */
const short = (ms) =>
  ms < 1 ? `${Math.round(ms * 1000)} µs` : ms < 1000 ? `${Math.round(ms)} ms` : `${Number((ms / 1000).toFixed(1))} s`

/**
 * As wide as its place, and no less high than it looks well.
 *
 * @param {string} id
 * @param {Omit<uPlot.Options, 'width' | 'height'>} options
 */
function plot(id, options) {
  const place = byId(id, HTMLElement)
  const size = () => ({ width: Math.max(120, place.clientWidth), height: Math.max(80, place.clientHeight) })
  const made = new uPlot(
    { ...options, ...size(), legend: { show: false }, cursor: { show: false }, padding: [8, 16, 0, 0] },
    [[], ...options.series.slice(1).map(() => [])],
    place
  )
  new ResizeObserver(() => made.setSize(size())).observe(place)
  return made
}
