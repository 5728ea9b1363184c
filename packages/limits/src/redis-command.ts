import { hash } from 'node:crypto'
import { isMillraceError, MillraceError } from '@millrace/core'
import { script } from './redis-script.ts'

type Command = (args: readonly string[]) => Promise<unknown>

/**
 * Runs the script, which Redis is given only when it does not know it: with the number of keys, the keys, and what is told.
 *
 * @throws {MillraceError} `timeout` after `limitMs`, `unavailable`, `network`, or what `command` rejects with
 */
export type RunScript = (rest: readonly string[]) => Promise<unknown>

/** A step that Redis has not answered yet. */
interface Step {
  readonly dueAt: number
  readonly resolve: (reply: unknown) => void
  readonly reject: (error: unknown) => void
  isLate: boolean
}

const sha = hash('sha1', script)

/** All steps have the same time limit, so that one timer does for all: for the oldest. `failed` is told of each that fails. */
export function createRunScript(command: Command, limitMs: number, failed: () => void): RunScript {
  const steps = new Set<Step>()
  let timer: NodeJS.Timeout | undefined

  // Timers run before the sockets are read: after a block of the event loop, the answer may be there already.
  function arm(afterMs: number): void {
    timer = setTimeout(() => setImmediate(giveUp), afterMs)
  }

  function giveUp(): void {
    clearTimeout(timer) // armed anew meanwhile, perhaps
    timer = undefined
    const now = performance.now()
    for (const step of steps) {
      if (step.dueAt > now) return arm(step.dueAt - now)
      step.isLate = true
      steps.delete(step)
      failed()
      const details = { clock: 'total', limitMs, elapsedMs: limitMs } as const
      step.reject(new MillraceError('timeout', `Redis did not answer within ${limitMs} ms (commandTimeoutMs)`, { details }))
    }
  }

  function over(step: Step): void {
    steps.delete(step)
    if (steps.size > 0) return
    clearTimeout(timer)
    timer = undefined
  }

  async function evaluate(step: Step, rest: readonly string[]): Promise<unknown> {
    try {
      return await command(['EVALSHA', sha, ...rest])
    } catch (error) {
      // A step that was given up must not run after all.
      if (refusalOf(error) !== 'NOSCRIPT' || step.isLate) throw error
      return await command(['EVAL', script, ...rest])
    }
  }

  async function answer(step: Step, rest: readonly string[]): Promise<void> {
    try {
      step.resolve(await evaluate(step, rest))
    } catch (error) {
      if (!step.isLate) failed()
      step.reject(redisError(error))
    }
    over(step)
  }

  return (rest) => {
    const { promise, resolve, reject } = Promise.withResolvers<unknown>()
    const step: Step = { dueAt: performance.now() + limitMs, resolve, reject, isLate: false }
    steps.add(step)
    if (timer === undefined) arm(limitMs)
    void answer(step, rest)
    return promise
  }
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
