// One way to keep a running total over the deltas of a stream, in a process of its own: `tokens-stream-main.ts <way> <language/cut>`.
// The first thing it says is how far it is off.

import type { Language } from './tokens-corpora.ts'
import { counter, ours, ourTokenizer } from './tokens-counters.ts'
import { type Cut, type Oracle, openOracle, streamsOf } from './tokens-deltas.ts'
import { takeTurns } from './turns.ts'

interface Total {
  /** The running total. */
  push(delta: string): number
  /** The total once the stream is over. */
  end(): number
}

/** How far a way is off, in one stream. */
export interface Off {
  /** Streams of which the total at the end is the exact one. */
  readonly exact: number
  readonly streams: number
  /** Of the first stream's total at the end. */
  readonly endPercent: number
  /** At most, in tokens, of its running total. */
  readonly onTheWay: number
}

/** A whole text is counted only that often where each time would take minutes; the mean of a stream is the same. */
const sparse = 20

const [way = '', what = ''] = process.argv.slice(2)
const [name = '', source = ''] = way.split(' over ')
const every = name === 'recount' ? sparse : 1
const open = await wayOf()
const [language = '', cut = ''] = what.split('/')
const oracle = await openOracle()
const streams = streamsOf(language as Language, cut as Cut, oracle)
const off = measure(streams, oracle)
oracle.close()
let at = 0

takeTurns(async () => {
  at = (at + 1) % streams.length
  const deltas = streams[at] as readonly string[]
  const total = open()
  for (const delta of deltas) total.push(delta)
  if (!(total.end() > 0)) throw new Error(`${way} counts nothing`)
  return { units: deltas.length / every }
}, off)

async function wayOf(): Promise<() => Total> {
  if (way === 'counter().push') {
    const tokenizer = await ourTokenizer()
    return () => {
      const { push } = tokenizer.counter()
      let total = 0
      return { push: (delta) => (total = push(delta)), end: () => total }
    }
  }
  const count = await counter(source === '' ? ours : source)
  if (name === 'each delta by itself') {
    return () => {
      let total = 0
      return { push: (delta) => (total += count(delta)), end: () => total }
    }
  }
  if (name === 'recount') {
    return () => {
      let text = ''
      let deltas = 0
      let total = 0
      return {
        push: (delta) => ((text += delta), ++deltas % sparse === 0 ? (total = count(text)) : total),
        end: () => count(text)
      }
    }
  }
  if (name === 'up to the last space') {
    return () => {
      let total = 0
      let tail = ''
      return {
        push(delta) {
          tail += delta
          const space = tail.lastIndexOf(' ')
          if (space <= 0) return total
          total += count(tail.slice(0, space))
          tail = tail.slice(space)
          return total
        },
        end: () => total + (tail === '' ? 0 : count(tail))
      }
    }
  }
  throw new TypeError(`${way} is no way`)
}

function measure(all: readonly (readonly string[])[], { count }: Oracle): Off {
  const ends = all.map((deltas) => {
    const total = open()
    for (const delta of deltas) total.push(delta)
    return { got: total.end(), exact: count(deltas.join('')) }
  })
  const [first] = ends
  if (first === undefined) throw new Error('there are no streams')
  const total = open()
  let text = ''
  let onTheWay = 0
  for (const [index, delta] of (all[0] ?? []).entries()) {
    const running = total.push(delta)
    text += delta
    if ((index + 1) % sparse === 0) onTheWay = Math.max(onTheWay, Math.abs(running - count(text)))
  }
  const exact = ends.filter((end) => end.got === end.exact).length
  return { exact, streams: all.length, endPercent: (100 * (first.got - first.exact)) / first.exact, onTheWay }
}
