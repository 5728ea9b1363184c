/** What a check has found, with the figure that proves it. */
export interface Verdict {
  readonly pass: boolean
  readonly figure: string
  /** Where it failed. */
  readonly cause?: string | undefined
  readonly cure?: string | undefined
}

export function passed(figure: string): Verdict {
  return { pass: true, figure }
}

/** What a server wrote, as part of a line. */
export function oneLine(text: string): string {
  return text.replace(/[\s\u0085]+/g, ' ')
}

export function failed(figure: string, cause: string, cure: string): Verdict {
  return { pass: false, figure, cause, cure }
}

/** `plural(2, 'socket')` is `2 sockets`. */
export function plural(count: number, noun: string): string {
  return `${count.toLocaleString('en')} ${noun}${count === 1 ? '' : 's'}`
}

export function milliseconds(ms: number): string {
  return ms >= 10_000 ? `${(ms / 1000).toFixed(0)} s` : `${ms < 10 ? ms.toFixed(1) : ms.toFixed(0)} ms`
}

export function percent(share: number): string {
  return `${(share * 100).toFixed(0)} %`
}
