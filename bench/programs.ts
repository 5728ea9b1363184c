// Child programs that are asked for one turn after the other.
import { type ChildProcess, fork } from 'node:child_process'
import { once } from 'node:events'

/** One turn of one subject, as the parent asks for it. */
export interface Turn {
  readonly concurrency: number
  readonly ms: number
}

/** What a turn came to. */
export interface Sample {
  /** Calls, or chunks of streams. */
  readonly units: number
  /** User and system time of the whole child process. */
  readonly cpuUs: number
  readonly seconds: number
  /** 99th percentile of the time a call took. */
  readonly p99Ms: number
  /** Median time from the call to its first text; NaN where nothing is streamed. */
  readonly firstMs: number
  /** The most the child has held so far, resident. */
  readonly peakMB: number
}

/** Ends with its scope: the child goes by itself once its parent has let go of it. */
export interface Program extends AsyncDisposable {
  /** The first thing it said: it is ready. */
  readonly hello: unknown
  ask(turn: Turn): Promise<Sample>
}

/** Runs a file of this folder on the packages' sources, or on their built files with `built`. */
export async function start(
  file: string,
  args: readonly string[],
  { built = false, flags = [] }: { readonly built?: boolean; readonly flags?: readonly string[] } = {}
): Promise<Program> {
  const name = `${file} ${args.join(' ')}`
  // LangChain sends its traces to a service if the environment says so; nothing here goes beyond this machine.
  const env = { ...process.env, LANGCHAIN_TRACING_V2: 'false', LANGSMITH_TRACING: 'false' }
  const child = fork(new URL(file, import.meta.url), args, {
    env,
    execArgv: [...(built ? [] : ['--conditions=@millrace/source']), ...flags]
  })
  const hello = await answer(child, name)
  return {
    hello,
    ask(turn) {
      child.send(turn)
      return answer(child, name) as Promise<Sample>
    },
    async [Symbol.asyncDispose]() {
      if (child.exitCode !== null || child.signalCode !== null) return
      const exited = once(child, 'exit')
      child.disconnect()
      await exited
    }
  }
}

function answer(child: ChildProcess, name: string): Promise<unknown> {
  return new Promise((resolve, reject) => {
    const died = (code: number | null): void => reject(new Error(`${name} ended with code ${code} instead of an answer`))
    child.once('exit', died)
    child.once('message', (message) => {
      child.off('exit', died)
      resolve(message)
    })
  })
}
