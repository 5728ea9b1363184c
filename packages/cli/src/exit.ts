/** Ends the command with one line for its user. */
export class Exit extends Error {
  override readonly name = 'Exit'
  readonly code: ExitCode

  constructor(code: ExitCode, message: string, cause?: unknown) {
    super(message, cause === undefined ? {} : { cause })
    this.code = code
  }
}

/**
 * 0: all succeeded. 1: some items, or checks, failed. 2: the command or its input is wrong, and nothing was sent. 3: stopped before the
 * end. 130 and 143: by SIGINT and SIGTERM.
 */
export type ExitCode = 0 | 1 | 2 | 3 | 130 | 143
