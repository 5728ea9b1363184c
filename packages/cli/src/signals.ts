import type { ExitCode } from './exit.ts'

/**
 * Calls `first` at the first SIGINT or SIGTERM; the next one ends the process at once, after `last`. Returns what takes the listeners off.
 */
type Hear = (code: ExitCode, name: string) => void

export function onSignals(first: Hear, last: Hear): () => void {
  let heard = false
  function listen(name: NodeJS.Signals): void {
    const code = name === 'SIGINT' ? 130 : 143
    if (heard) {
      last(code, name)
      process.exit(code)
    }
    heard = true
    first(code, name)
  }
  process.on('SIGINT', listen).on('SIGTERM', listen)
  return () => process.off('SIGINT', listen).off('SIGTERM', listen)
}
