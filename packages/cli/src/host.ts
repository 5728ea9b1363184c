import type { Readable } from 'node:stream'
import type { ProgressOutput } from './progress.ts'

/** What the command has of its process, which is one. */
export interface Host {
  readonly env: Readonly<Record<string, string | undefined>>
  readonly stdin: Readable & { readonly isTTY?: boolean | undefined }
  readonly stdout: ProgressOutput
  readonly stderr: ProgressOutput
}
