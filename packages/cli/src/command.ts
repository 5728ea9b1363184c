import { readFileSync } from 'node:fs'
import { batchCommand } from './batch-command.ts'
import { doctorCommand } from './doctor-command.ts'
import { Exit, type ExitCode } from './exit.ts'
import { batchHelp, doctorHelp, help } from './help.ts'
import type { Host } from './host.ts'
import { printable } from './printable.ts'

/** Does what the arguments say, tells failures in one line on stderr, and gives the exit code. */
export async function command(args: readonly string[], host: Host): Promise<ExitCode> {
  try {
    return await dispatch(args, host)
  } catch (error) {
    const exit = error instanceof Exit ? error : new Exit(3, error instanceof Error ? String(error.stack) : String(error))
    host.stderr.write(printable(`millrace: ${exit.message}\n`))
    return exit.code
  }
}

async function dispatch(args: readonly string[], host: Host): Promise<ExitCode> {
  const [name, ...rest] = args
  if (name === '--version' || name === '-v') return tell(host, `${version()}\n`)
  if (name === '--help' || name === '-h' || name === 'help') return tell(host, help)
  if (name === undefined) throw new Exit(2, 'what to do? millrace --help tells')
  const asksHelp = rest.includes('--help') || rest.includes('-h')
  if (name === 'batch') return asksHelp ? tell(host, batchHelp) : batchCommand(rest, host)
  if (name === 'doctor') return asksHelp ? tell(host, doctorHelp) : doctorCommand(rest, host)
  throw new Exit(2, `there is no command ${JSON.stringify(name)}: millrace --help lists them`)
}

function tell({ stdout }: Host, text: string): ExitCode {
  stdout.write(text)
  return 0
}

function version(): string {
  const { version: told } = JSON.parse(readFileSync(new URL('../package.json', import.meta.url), 'utf8')) as { version: string }
  return told
}
