/** Reads that come closer together than this, in milliseconds, share one reading of the clock. */
const denseMs = 0.02

/**
 * A clock for lookups that come thick: milliseconds that never jump. Reading the platform's costs as much as finding an entry,
 * so a burst of reads gets one reading, for a millisecond or until the code that runs now lets go of the process.
 */
export function createClock(): () => number {
  let at = 0
  let held = false
  function letGo(): void {
    held = false
  }
  return () => {
    if (held) return at
    const real = performance.now()
    if (real - at < denseMs) {
      held = true
      setTimeout(letGo, 1).unref()
    }
    at = real
    return real
  }
}
