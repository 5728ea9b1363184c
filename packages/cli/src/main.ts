#!/usr/bin/env node
// Nothing is imported before the version is known to do: an older Node would fail in the middle of a package, with a stack.
const [major = 0, minor = 0] = process.versions.node.split('.').map(Number)
if (major < 22 || (major === 22 && minor < 19)) {
  console.error(`millrace: this needs Node 22.19 or later, and runs on ${process.versions.node}`)
  process.exitCode = 2
} else {
  // Whoever read them has left, and nobody else is there to be told: the work, and its exit code, do not depend on that.
  for (const stream of [process.stdout, process.stderr]) stream.on('error', () => {})
  const { command } = await import('./command.ts')
  process.exitCode = await command(process.argv.slice(2), process)
}
