#!/usr/bin/env node
import { command } from './command.ts'

// Whoever read them has left, and nobody else is there to be told: the work, and its exit code, do not depend on that.
for (const stream of [process.stdout, process.stderr]) stream.on('error', () => {})

process.exitCode = await command(process.argv.slice(2), process)
