import { newQuestion, type Question, type StreamedAnswer } from './doctor-answer.ts'
import type { Gateway } from './doctor-gateway.ts'
import { failed, milliseconds, passed, plural, type Verdict } from './doctor-verdict.ts'

const streamTokens = 160
export const streamTries = 3

export interface StreamFigures {
  readonly firstTextMs: number
  readonly lastTextMs: number
  readonly totalMs: number
  /** Arrivals of text with a pause before them. */
  readonly bursts: number
  readonly finished: boolean
  readonly done: boolean
  readonly usage: boolean
  /** Whether the cache keeps another text of this answer; undefined where it keeps none. */
  readonly garbled: boolean | undefined
}

export interface StreamingFigures {
  /** The best of a few: a busy machine may gather what came apart. */
  readonly best: StreamFigures
  /** From leaving a stream to its call's end in the gateway; undefined when that was not seen. */
  readonly leftMs: number | undefined
}

export async function measureStreaming(gateway: Gateway): Promise<StreamingFigures> {
  let best: StreamFigures | undefined
  for (let attempt = 0; attempt < streamTries && (best === undefined || problemOf(best) !== undefined); attempt++) {
    const question = longAnswer()
    const answer = await gateway.stream(question)
    const whole = await gateway.ask(question)
    const figures = { ...figuresOf(answer), garbled: whole.cache === 'hit' ? whole.text !== answer.text : undefined }
    if (best === undefined || figures.bursts > best.bursts || problemOf(figures) === undefined) best = figures
  }
  const before = await gateway.counts()
  await gateway.leave(longAnswer())
  const leftAt = performance.now()
  const after = await gateway.settled(({ aborted }) => aborted > before.aborted)
  return { best: best as StreamFigures, leftMs: after.aborted > before.aborted ? performance.now() - leftAt : undefined }
}

/** Nothing less than two milliseconds apart counts as apart. */
export function figuresOf({ arrivals, elapsedMs, finished, done, usage }: StreamedAnswer): Omit<StreamFigures, 'garbled'> {
  let last = Number.NEGATIVE_INFINITY
  let bursts = 0
  for (const arrival of arrivals) {
    if (arrival - last >= 2) bursts++
    last = arrival
  }
  return {
    firstTextMs: arrivals[0] ?? elapsedMs,
    lastTextMs: arrivals.at(-1) ?? elapsedMs,
    totalMs: elapsedMs,
    bursts,
    finished,
    done,
    usage
  }
}

export function judgeStreaming({ best, leftMs }: StreamingFigures): Verdict {
  const left =
    leftMs === undefined ? 'a stream that was left ran on' : `a stream that was left let go within ${milliseconds(leftMs)}`
  const figure = `first text after ${milliseconds(best.firstTextMs)} of ${milliseconds(best.totalMs)}, in ${plural(best.bursts, 'arrival')}; ${left}`
  const problem = problemOf(best)
  if (problem !== undefined) return failed(figure, ...problem)
  if (leftMs !== undefined) return passed(figure)
  return failed(
    figure,
    'a call went on, and costs, though its client had left',
    'see that no proxy between keeps the connection to the gateway open when its client has gone'
  )
}

/** Cause and cure. */
function problemOf(figures: StreamFigures): readonly [string, string] | undefined {
  const { firstTextMs, lastTextMs, totalMs, bursts, finished, done, usage, garbled } = figures
  if (bursts === 0) return ['no text came', 'see that the model answers in text; give another --model']
  // The wait for the first text says nothing: a model may think for long and then be fast.
  if (bursts < 4 || lastTextMs - firstTextMs < 0.1 * (totalMs - firstTextMs)) {
    return [
      'all text came at once instead of bit by bit',
      'take buffering out of the way: a proxy (nginx: `proxy_buffering off`), compression, or a provider that does not stream'
    ]
  }
  if (!finished || !done)
    return ['the stream ended without a finish reason and [DONE]', 'see the log of the gateway: the provider breaks off']
  if (garbled === true)
    return [
      'the stream had another text than the same answer asked for at once',
      'see what lies between and changes events: text is lost, or comes twice'
    ]
  if (!usage) return ['the stream told no usage', 'see that the provider tells usage with streams (`stream_options`)']
  return undefined
}

function longAnswer(): Question {
  return newQuestion('Tell the story of a river from its source to the sea, in five sentences.', streamTokens)
}
