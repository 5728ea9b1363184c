import { hash } from 'node:crypto'
import { isMillraceError, MillraceError } from '@millrace/core'
import { script } from './redis-script.ts'

type Command = (args: readonly string[]) => Promise<unknown>

const sha = hash('sha1', script)

/**
 * Runs the script, which Redis is given only when it does not know it.
 *
 * @throws {MillraceError} `timeout` after `limitMs`, `unavailable`, `network`, or what `command` rejects with
 */
export function runScript(command: Command, limitMs: number, keys: readonly string[], args: readonly string[]): Promise<unknown> {
  const rest = [`${keys.length}`, ...keys, ...args]
  const { promise, resolve, reject } = Promise.withResolvers<unknown>()
  let isLate = false
  // Timers run before the sockets are read: after a block of the event loop, the answer may be there already.
  const timer = setTimeout(() => setImmediate(giveUp), limitMs)

  function giveUp(): void {
    isLate = true
    const details = { clock: 'total', limitMs, elapsedMs: limitMs } as const
    reject(new MillraceError('timeout', `Redis did not answer within ${limitMs} ms (commandTimeoutMs)`, { details }))
  }

  async function evaluate(): Promise<void> {
    try {
      resolve(await command(['EVALSHA', sha, ...rest]))
    } catch (error) {
      // A step that was given up must not run after all.
      if (refusalOf(error) !== 'NOSCRIPT' || isLate) throw error
      resolve(await command(['EVAL', script, ...rest]))
    }
  }

  evaluate()
    .catch((error: unknown) => reject(redisError(error)))
    .finally(() => clearTimeout(timer))
  return promise
}

/** The word a refusal of Redis begins with, such as `OOM`. */
function refusalOf(error: unknown): string | undefined {
  if (isMillraceError(error, 'unavailable')) return error.details.providerCode
  return error instanceof Error ? /^[A-Z]{2,32}(?= )/.exec(error.message)?.[0] : undefined
}

/** Redis' own words may repeat the arguments, and with them a tenant's name; only the first gets into the message. */
function redisError(error: unknown): MillraceError {
  if (isMillraceError(error)) return error
  const word = refusalOf(error)
  if (word !== undefined) {
    return new MillraceError('unavailable', `Redis refused the step: ${word}`, { details: { providerCode: word }, cause: error })
  }
  const mistake = error instanceof TypeError ? ': of a client, command must be written as (args) => client.sendCommand(args)' : ''
  return new MillraceError('network', `the command to Redis failed${mistake}`, { details: { phase: 'body' }, cause: error })
}
