import type { ExitCode } from './exit.ts'

/**
 * Calls `first` at the first SIGINT or SIGTERM; the next one ends the process at once. Returns what takes the listeners off.
 */
export function onSignals(first: (code: ExitCode, name: string) => void): () => void {
  let heard = false
  function listen(name: NodeJS.Signals): void {
    const code = name === 'SIGINT' ? 130 : 143
    if (heard) process.exit(code)
    heard = true
    first(code, name)
  }
  process.on('SIGINT', listen).on('SIGTERM', listen)
  return () => process.off('SIGINT', listen).off('SIGTERM', listen)
}
