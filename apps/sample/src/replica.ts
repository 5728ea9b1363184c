import { fork } from 'node:child_process'
import { once } from 'node:events'
import { extname } from 'node:path'
import { fileURLToPath } from 'node:url'

/** One gateway as a process of its own. It ends with the process that started it, however that ends. */
export interface Replica {
  /** The same after a new start. */
  readonly url: string
  readonly pid: number
  /** Asks it to end, as a deployment does, and gives its exit code. */
  terminate(): Promise<number | null>
  /** Ends it at once, as a crash would. */
  kill(): Promise<void>
  /** Starts it again where it was. */
  restart(): Promise<void>
}

/** What it was told is not heard any more. */
const forgotten = /^(?:MILLRACE_|OPENAI_|ANTHROPIC_|OTEL_|REDIS_URL$|HOST$|PORT$|NODE_OPTIONS$)/

/**
 * Starts the gateway with this environment and nothing of the caller's that would configure it.
 *
 * @throws {Error} when it ends before it listens; what it said stands on standard error
 */
export async function startReplica(env: Readonly<Record<string, string>>): Promise<Replica> {
  const extension = extname(import.meta.url)
  const program = fileURLToPath(new URL(`./main${extension}`, import.meta.url))
  const inherited = Object.fromEntries(Object.entries(process.env).filter(([name]) => !forgotten.test(name)))

  async function launch(port: string): Promise<{ child: ReturnType<typeof fork>; ended: Promise<number | null>; url: string }> {
    const child = fork(program, {
      env: { ...inherited, ...env, PORT: port },
      execArgv: extension === '.ts' ? ['--conditions=@millrace/source'] : []
    })
    const ended = once(child, 'exit').then(([code]) => code as number | null)
    const started = await Promise.race([once(child, 'message'), ended.then(() => undefined)])
    if (started === undefined) throw new Error('a gateway ended before it listened')
    return { child, ended, url: (started[0] as { readonly url: string }).url }
  }

  let running = await launch('0')
  const { url } = running
  return {
    url,
    get pid() {
      return running.child.pid as number
    },
    terminate() {
      running.child.kill('SIGTERM')
      return running.ended
    },
    async kill() {
      running.child.kill('SIGKILL')
      await running.ended
    },
    async restart() {
      await running.ended
      running = await launch(new URL(url).port)
    }
  }
}
