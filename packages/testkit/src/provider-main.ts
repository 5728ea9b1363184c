// A program, not a module of the package: the scripted provider in a process of its own.
import { parseArgs } from 'node:util'
import { type ScriptedOptions, startScriptedProvider } from './scripted.ts'

try {
  const provider = await startScriptedProvider(readArguments())
  const stop = (): void => void provider.close().then(() => process.exit(0))
  process.once('SIGTERM', stop)
  process.once('SIGINT', stop)
  // The one who started this is gone when its end of the pipe closes.
  process.stdin.once('end', stop).once('error', stop).resume()
  console.log(JSON.stringify({ url: provider.url }))
} catch (error) {
  console.error(`scripted provider: ${error instanceof Error ? error.message : String(error)}`)
  process.exitCode = 1
}

function readArguments(): ScriptedOptions {
  const { values } = parseArgs({
    options: {
      port: { type: 'string' },
      host: { type: 'string' },
      'tokens-per-second': { type: 'string' },
      'first-token-ms': { type: 'string' },
      requests: { type: 'string' },
      tokens: { type: 'string' },
      'per-ms': { type: 'string' },
      'rate-headers': { type: 'string' },
      'api-key': { type: 'string' }
    }
  })
  const number = (text: string | undefined): number | undefined => (text === undefined ? undefined : Number(text))
  const requests = number(values.requests)
  const tokens = number(values.tokens)
  return {
    port: number(values.port),
    host: values.host,
    tokensPerSecond: number(values['tokens-per-second']),
    firstTokenMs: number(values['first-token-ms']),
    rateLimit:
      requests === undefined && tokens === undefined
        ? undefined
        : { requests, tokens, perMs: number(values['per-ms']) ?? 1000, headers: values['rate-headers'] !== 'false' },
    apiKey: values['api-key']
  }
}
