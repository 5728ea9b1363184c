/** The same text is told once in this time. */
const everyMs = 60_000
/** There are fewer kinds of failure; of more the oldest is forgotten, and may be told again. */
const maxTexts = 100

export interface Reporter {
  report(text: string): void
  /** Exceptions and rejections of `onError`. */
  readonly failures: number
}

/** Tells `onError` what went wrong, or the console; never twice a minute the same. */
export function createReporter(onError: (error: Error) => unknown = toConsole): Reporter {
  const toldAt = new Map<string, number>()
  let failures = 0

  async function tell(text: string): Promise<void> {
    try {
      await onError(new Error(text))
    } catch {
      // It is the user's: counted, for it must reach neither the SDK nor the process.
      failures++
    }
  }

  return {
    get failures() {
      return failures
    },
    report(text) {
      const now = performance.now()
      if (now - (toldAt.get(text) ?? Number.NEGATIVE_INFINITY) < everyMs) return
      // Deleted first, so that the map is in the order of telling.
      toldAt.delete(text)
      const [oldest] = toldAt.keys()
      if (toldAt.size === maxTexts && oldest !== undefined) toldAt.delete(oldest)
      toldAt.set(text, now)
      // Later: here somebody's span ends, or an export, and what is counted of it is not yet complete.
      queueMicrotask(() => tell(text))
    }
  }
}

function toConsole(error: Error): void {
  console.warn(`@millrace/telemetry: ${error.message}`)
}
