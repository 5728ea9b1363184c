import { type ChildProcess, fork } from 'node:child_process'
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

/** What a gateway says to the process that has forked it. */
export interface GatewayAddresses {
  readonly url: string
  readonly upstream: { readonly baseURL: string }
  readonly model: string
}

export interface ForkedGateway {
  readonly child: ChildProcess
  /** Its exit code; null for one that was killed. */
  readonly ended: Promise<number | null>
  /** Undefined for one that ended before it listened; what it said then stands on standard error. */
  readonly said: GatewayAddresses | undefined
}

/** Starts the program of `pnpm start` with just this environment. It ends with this process, or when its channel is closed. */
export async function forkGateway(env: NodeJS.ProcessEnv): Promise<ForkedGateway> {
  const extension = extname(import.meta.url)
  const program = fileURLToPath(new URL(`./main${extension}`, import.meta.url))
  const child = fork(program, { env, execArgv: extension === '.ts' ? ['--conditions=@millrace/source'] : [] })
  // Not 'close': with the channel disconnected it never comes.
  const ended = once(child, 'exit').then(([code]) => code as number | null)
  const said = await Promise.race([
    once(child, 'message').then(([message]) => message as GatewayAddresses),
    ended.then(() => undefined)
  ])
  return { child, ended, said }
}

/** What it was told is not heard any more. */
const forgotten = /^(?:MILLRACE_|OPENAI_|ANTHROPIC_|OTEL_|REDIS_URL$|HOST$|PORT$|NODE_OPTIONS$)/

/**
 * Starts the gateway with this environment and nothing of the caller's that would configure it.
 *
 * @throws {Error} when it ends before it listens; what it said stands on standard error
 */
export async function startReplica(env: Readonly<Record<string, string>>): Promise<Replica> {
  const inherited = Object.fromEntries(Object.entries(process.env).filter(([name]) => !forgotten.test(name)))

  async function launch(port: string): Promise<ForkedGateway & { readonly said: GatewayAddresses }> {
    const { said, ...forked } = await forkGateway({ ...inherited, ...env, PORT: port })
    if (said === undefined) throw new Error('a gateway ended before it listened')
    return { ...forked, said }
  }

  let running = await launch('0')
  const { url } = running.said
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
