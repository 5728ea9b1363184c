// What a journal costs, on the disk of the system's temporary files.
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { compare } from './rig.ts'

export async function journal(): Promise<void> {
  const folder = await mkdtemp(join(tmpdir(), 'millrace-bench-'))
  const base = 'no journal'
  try {
    await compare({
      title: `Items of 1 KB with answers of 1 KB, 100 at a time, the journal in ${tmpdir()}`,
      program: 'batch-journal-main.ts',
      at: folder,
      rows: [`${base} again`, 'journal without fsync', 'journal with fsync', 'a line and fdatasync in turn'].map((subject) => ({
        subject,
        base
      })),
      concurrencies: [1],
      warmAt: 1,
      measures: ['added', 'rate'],
      ms: 500
    })
  } finally {
    await rm(folder, { recursive: true })
  }
}
