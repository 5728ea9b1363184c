import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { extname } from 'node:path'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'
import { checkFault, type ScriptedFault } from './fault.ts'
import type { ScriptedOptions, ScriptedStats } from './scripted.ts'

export interface SpawnedProvider extends AsyncDisposable {
  /** Base URL, ends in `/v1`. */
  readonly url: string
  readonly pid: number
  stats(): Promise<ScriptedStats>
  /**
   * Does to answers that begin from now on what {@link ScriptedFault} tells.
   *
   * @throws {TypeError} for a name that is none of a fault
   */
  setFault(name: ScriptedFault): Promise<void>
  close(): Promise<void>
}

/**
 * The scripted provider in a process of its own, so that what it costs is not counted as the caller's. It ends with
 * `close()`, and with the process that started it, however that ends.
 *
 * @throws {Error} with what the process wrote, when it does not listen
 *
 * @example
 * const provider = await spawnScriptedProvider({ tokensPerSecond: 80, rateLimit: { requests: 20, perMs: 1000 } })
 * console.log(await provider.stats())
 * await provider.close()
 */
export async function spawnScriptedProvider(options: Omit<ScriptedOptions, 'reply'> = {}): Promise<SpawnedProvider> {
  // `.ts` when run from source, `.js` when built: the program lies beside this file either way.
  const program = fileURLToPath(new URL(`./provider-main${extname(import.meta.url)}`, import.meta.url))
  // Apart from the terminal's group: Ctrl+C is for the one who started this, who may still have answers to finish.
  const child = spawn(process.execPath, [program, ...argumentsOf(options)], { stdio: ['pipe', 'pipe', 'pipe'], detached: true })
  let errors = ''
  child.stderr.setEncoding('utf8').on('data', (text: string) => {
    errors = (errors + text).slice(-2000)
  })
  // A child that ended first breaks the pipe; its exit tells what happened.
  child.stdin.on('error', () => {})
  const ended = new Promise<void>((resolve) => {
    child.once('close', () => resolve())
    child.once('error', (error) => {
      errors += error.message
      resolve()
    })
  })
  const lines = createInterface(child.stdout)
  const line = await Promise.race([once(lines, 'line'), ended])
  if (line === undefined) throw new Error(errors.trim() || 'the scripted provider ended before it listened')
  const { url } = JSON.parse(String(line[0])) as { url: string }
  let closing: Promise<void> | undefined

  async function end(): Promise<void> {
    child.stdin.end()
    const impatient = setTimeout(() => child.kill('SIGKILL'), 2000)
    await ended
    clearTimeout(impatient)
  }

  function close(): Promise<void> {
    closing ??= end()
    return closing
  }

  return {
    url,
    pid: child.pid as number,
    async stats() {
      const response = await fetch(new URL('/stats', url))
      return (await response.json()) as ScriptedStats
    },
    async setFault(name) {
      const body = JSON.stringify({ fault: checkFault(name) })
      const response = await fetch(new URL('/faults', url), { method: 'PUT', body })
      await response.arrayBuffer()
      if (!response.ok) throw new Error(`the scripted provider answered a fault with ${response.status}`)
    },
    close,
    [Symbol.asyncDispose]: close
  }
}

function argumentsOf({ port, host, tokensPerSecond, firstTokenMs, rateLimit, apiKey }: Omit<ScriptedOptions, 'reply'>): string[] {
  const flags: Readonly<Record<string, string | number | undefined>> = {
    port,
    host,
    'tokens-per-second': tokensPerSecond,
    'first-token-ms': firstTokenMs,
    requests: rateLimit?.requests,
    tokens: rateLimit?.tokens,
    'per-ms': rateLimit?.perMs,
    'rate-headers': rateLimit?.headers === false ? 'false' : undefined,
    'api-key': apiKey
  }
  return Object.entries(flags).flatMap(([name, value]) => (value === undefined ? [] : [`--${name}=${value}`]))
}
