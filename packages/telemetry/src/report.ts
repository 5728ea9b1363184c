/** The same text is told once in this time. */
const everyMs = 60_000
/** There are fewer kinds of failure; more would be somebody's mistake. */
const maxTexts = 100

export interface Reporter {
  report(text: string): void
  /** Exceptions of `onError`. */
  readonly failures: number
}

/** Tells `onError` what went wrong, or the console; never twice a minute the same. */
export function createReporter(onError: (error: Error) => void = toConsole): Reporter {
  const toldAt = new Map<string, number>()
  let failures = 0
  return {
    get failures() {
      return failures
    },
    report(text) {
      const now = performance.now()
      if (now - (toldAt.get(text) ?? Number.NEGATIVE_INFINITY) < everyMs || toldAt.size === maxTexts) return
      toldAt.set(text, now)
      try {
        onError(new Error(text))
      } catch {
        // It is the user's, and we are inside an export: counted, for it must not reach the SDK.
        failures++
      }
    }
  }
}

function toConsole(error: Error): void {
  console.warn(`@millrace/telemetry: ${error.message}`)
}
