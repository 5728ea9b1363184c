import { createInterface } from 'node:readline/promises'
import { type DoctorArguments, readDoctorArguments } from './doctor-arguments.ts'
import type { Plan } from './doctor-checks.ts'
import type { Gateway } from './doctor-gateway.ts'
import { createReport } from './doctor-report.ts'
import { oneLine, plural } from './doctor-verdict.ts'
import { Exit, type ExitCode } from './exit.ts'
import type { Host } from './host.ts'
import { printable } from './printable.ts'

/**
 * `millrace doctor`: everything that can be wrong, and what it will cost, is known before a call is sent.
 *
 * @throws {Exit} 2, with one line for the user
 */
export async function doctorCommand(args: readonly string[], host: Host): Promise<ExitCode> {
  const asked = readDoctorArguments(args, host.env)
  // Loaded now, so that help and mistakes do not wait for the network's libraries.
  const { checks: all, runCheck } = await import('./doctor-checks.ts')
  const startedAt = performance.now()
  await using gateway = await open(asked)
  const { replica } = gateway
  const checks = all.filter(({ name }) => asked.only.includes(name))
  const sum = (of: keyof Plan): number => checks.reduce((total, check) => total + check.plan(asked)[of], 0)
  const report = createReport(host, asked)
  const plan = [
    `Millrace gateway at ${gateway.address}, ${replica === undefined ? '' : `replica ${replica}, `}model ${oneLine(gateway.model)}`,
    `Sends about ${plural(sum('calls'), 'call')} to its provider, at most ${plural(sum('tokensIn'), 'token')} in and ${sum('tokensOut').toLocaleString('en')} out, and ${sum('free').toLocaleString('en')} that its cache answers or it refuses. Uploads about ${Math.ceil(sum('bytes') / 1e6)} MB.`
  ]
  await agree(asked, host, plan)
  report.open(plan)
  let failures = 0
  for (const check of checks) {
    report.begin(check.title)
    const verdict = await runCheck(check, gateway, asked)
    report.end(check.name, check.title, verdict)
    if (!verdict.pass) failures++
  }
  const about = { gateway: gateway.address, replica: replica ?? null, model: gateway.model }
  report.close(about, performance.now() - startedAt)
  return failures === 0 ? 0 : 1
}

async function open(asked: DoctorArguments): Promise<Gateway> {
  const [{ openGateway }, { TooSlow, Unanswered }] = await Promise.all([
    import('./doctor-gateway.ts'),
    import('./doctor-link.ts')
  ])
  try {
    return await openGateway(asked)
  } catch (error) {
    if (error instanceof TooSlow) throw new Exit(2, `${asked.address}: it does not answer within --budget`, error)
    if (!(error instanceof Unanswered)) throw error
    throw new Exit(2, `${asked.address}: ${cureOf(error.status, error.message, asked)}`, error)
  }
}

function cureOf(status: number | undefined, message: string, { token, tokenEnv }: DoctorArguments): string {
  if (status === 401) {
    return token === undefined
      ? `it asks for a token: set ${tokenEnv} to the operator's, or name another variable with --token-env`
      : `it does not accept the token of ${tokenEnv}: the operator's is MILLRACE_TOKEN where the gateway runs`
  }
  if (status === 403) return `${message}: /v1/stats is for the operator, so give the operator's token in ${tokenEnv}`
  if (status === 404) return `${message}: that is no Millrace gateway; give its address, without a path`
  return message
}

/** Calls of a gateway elsewhere are likely to cost money. */
async function agree({ local, yes, address }: DoctorArguments, { stdin, stderr }: Host, plan: readonly string[]): Promise<void> {
  if (local || yes) return
  if (stdin.isTTY !== true || stderr.isTTY !== true)
    throw new Exit(2, `${address} is on another machine. ${plan[1]} Add --yes to agree`)
  stderr.write(printable(`${plan.join('\n')}\n`))
  const question = createInterface({ input: stdin, output: stderr as NodeJS.WritableStream })
  try {
    const answer = await question.question('Go on? [y/N] ')
    if (!/^y(?:es)?$/i.test(answer.trim())) throw new Exit(2, 'nothing was sent')
  } finally {
    question.close()
  }
}
