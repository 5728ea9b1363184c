import { type ParseArgsConfig, parseArgs } from 'node:util'
import { Exit } from './exit.ts'

type Options = NonNullable<ParseArgsConfig['options']>
type Parsed<O extends Options> = ReturnType<typeof parseArgs<{ options: O; allowPositionals: true }>>

/** Reads the arguments of one command; what is wrong is an `Exit` of 2 with one line that says what to write. */
export interface ArgumentReader {
  parse<const O extends Options>(args: readonly string[], options: O): Parsed<O>
  wrong(message: string): Exit
  /** A whole number from 1 to `most`. */
  count(name: string, text: string, most?: number): number
  /** In milliseconds. */
  seconds(name: string, text: string, least: number): number
}

/**
 * @example
 * const { parse } = argumentsOf('batch')
 * parse(['in.jsonl', '--out', 'out.jsonl'], { out: { type: 'string' } }).values.out // 'out.jsonl'
 */
export function argumentsOf(command: string): ArgumentReader {
  const wrong = (message: string): Exit => new Exit(2, `${message} (millrace ${command} --help tells more)`)
  return {
    wrong,
    parse(args, options) {
      try {
        return parseArgs({ args: [...args], options, allowPositionals: true })
      } catch (error) {
        // Node's text quotes no value, and goes on for three sentences.
        const { code, message } = error as NodeJS.ErrnoException
        const name = /--?[\w-]+/.exec(message)?.[0] ?? 'an option'
        if (code === 'ERR_PARSE_ARGS_UNKNOWN_OPTION') throw wrong(`there is no option ${name}`)
        if (code !== 'ERR_PARSE_ARGS_INVALID_OPTION_VALUE') throw error
        throw wrong(message.includes('does not take') ? `${name} takes no value` : `${name} needs a value`)
      }
    },
    count(name, text, most = 1_000_000_000_000) {
      const value = Number(text)
      if (/^\d+$/.test(text) && value >= 1 && value <= most) return value
      throw wrong(`--${name} must be a whole number from 1 to ${most}, not ${JSON.stringify(text)}`)
    },
    seconds(name, text, least) {
      const value = Number(text)
      if (/^\d+(?:\.\d+)?$/.test(text) && value >= least && value <= 86_400) return value * 1000
      throw wrong(
        `--${name} must be a number of seconds${least > 0 ? ' above 0' : ''} and at most 86400, not ${JSON.stringify(text)}`
      )
    }
  }
}
