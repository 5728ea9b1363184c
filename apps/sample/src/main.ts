import { ConfigError, readConfig } from './config.ts'
import { startService } from './service.ts'

/** `pnpm start`: the gateway until SIGTERM or SIGINT. */
async function main(): Promise<void> {
  const config = readConfig(process.env)
  const service = await startService(config, process.env)

  let stopping = false
  function stop(): void {
    if (stopping) return
    stopping = true
    service.close().then(() => process.send === undefined && console.log('Millrace gateway stopped'), fail)
  }
  process.on('SIGTERM', stop)
  process.on('SIGINT', stop)
  // The demo runs this program as its child: it is told the addresses, and the gateway ends when the demo does.
  process.send?.({ url: service.url, upstream: service.upstream, model: config.model })
  process.once('disconnect', stop)

  if (process.send !== undefined) return
  const provider = config.upstream === undefined ? `its embedded provider, ${service.upstream.baseURL}` : service.upstream.baseURL
  console.log(`Millrace gateway on ${service.url}, in front of ${provider}

Call it:
  curl ${service.url}/v1/chat/completions -H 'content-type: application/json' \\${config.token === undefined ? '' : '\n    -H "authorization: Bearer $MILLRACE_TOKEN" \\'}
    -d '{"model": "${config.model}", "messages": [{"role": "user", "content": "Why is the sky blue?"}], "stream": true}'

or with any OpenAI client: baseURL ${service.url}/v1. What it did so far: ${service.url}/v1/stats, and\n${service.url}/metrics for Prometheus. Stop it with Ctrl+C, or kill ${process.pid}.`)
}

/** One line that says what to do; a stack trace only for what nobody foresaw. */
function fail(error: unknown): void {
  process.exitCode = 1
  const line = explain(error)
  console.error(line === undefined ? error : `millrace: ${line}`)
  process.disconnect?.()
}

function explain(error: unknown): string | undefined {
  if (error instanceof ConfigError || error instanceof TypeError) return error.message
  const { code, syscall } = error as { code?: unknown; syscall?: unknown }
  const host = process.env.HOST || '127.0.0.1'
  const port = process.env.PORT || '8787'
  if (code === 'EADDRINUSE') return `port ${port} is in use: stop what listens there, or set PORT to another one`
  if (syscall !== 'listen' && syscall !== 'getaddrinfo') return undefined
  if (code === 'EACCES') return `port ${port} is not for this user: set PORT to one above 1023`
  // An address of another machine, or a name that nobody knows.
  return `HOST=${host} is no address of this machine (${String(code)}): set HOST to one it has, or leave it out`
}

main().catch(fail)
