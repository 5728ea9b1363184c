import { styleText } from 'node:util'
import type { DoctorArguments } from './doctor-arguments.ts'
import { oneLine, type Verdict } from './doctor-verdict.ts'
import type { Host } from './host.ts'
import { printable } from './printable.ts'

/** Tells on stdout what the checks find, as they find it. */
export interface Report {
  /** Who is examined, and what will be sent. */
  open(lines: readonly string[]): void
  begin(title: string): void
  end(name: string, title: string, verdict: Verdict): void
  close(about: Readonly<Record<string, unknown>>, elapsedMs: number): void
}

export function createReport({ stdout, env }: Host, { json, quiet }: Pick<DoctorArguments, 'json' | 'quiet'>): Report {
  const terminal = stdout.isTTY === true
  const colour = terminal && !env.NO_COLOR
  const verdicts: ({ name: string } & Verdict)[] = []
  const mark = (pass: boolean): string => {
    const sign = pass ? '✓' : '✗'
    // The stream is known already to take colours.
    return colour ? styleText(pass ? 'green' : 'red', sign, { validateStream: false }) : sign
  }
  const dim = (text: string): string => (colour ? styleText('dim', text, { validateStream: false }) : text)
  const write = (text: string): unknown => stdout.write(text)

  return {
    open(lines) {
      if (!json && !quiet) write(printable(`${lines.join('\n')}\n\n`))
    },
    begin(title) {
      if (terminal && !json && !quiet) write(dim(`… ${title}`))
    },
    end(name, title, found) {
      const verdict = folded(found)
      verdicts.push({ name, ...verdict })
      if (json) return
      if (terminal && !quiet) write('\r\u001b[2K')
      const { pass, figure, cause, cure } = verdict
      if (quiet && pass) return
      write(`${mark(pass)} ${title}\n`)
      write(printable(`    ${figure}\n`))
      if (cause !== undefined) write(printable(`    why:  ${cause}\n`))
      if (cure !== undefined) write(printable(`    cure: ${cure}\n`))
    },
    close(about, elapsedMs) {
      const count = verdicts.filter(({ pass }) => pass).length
      const pass = count === verdicts.length
      if (json) write(`${JSON.stringify({ ...about, pass, elapsedMs: Math.round(elapsedMs), checks: verdicts }, null, 2)}\n`)
      else if (!quiet) write(`\n${mark(pass)} ${count} of ${verdicts.length} passed in ${(elapsedMs / 1000).toFixed(0)} s\n`)
    }
  }
}

/** Parts of it are words of a server. */
function folded({ pass, figure, cause, cure }: Verdict): Verdict {
  return {
    pass,
    figure: oneLine(figure),
    ...(cause !== undefined && { cause: oneLine(cause) }),
    ...(cure !== undefined && { cure: oneLine(cure) })
  }
}
