import { ConfigError, readConfig } from './config.ts'
import { startService } from './service.ts'

/** `pnpm start`: the gateway until SIGTERM or SIGINT. */
async function main(): Promise<void> {
  const config = readConfig(process.env)
  listening = config
  const starting = startService(config, process.env)

  let stopping = false
  function stop(): void {
    if (stopping) return
    stopping = true
    // Whoever is told to stop while it starts has started first: so everything it has opened is closed.
    starting.then((service) => service.close().then(stopped, fail), ignore)
  }
  process.on('SIGTERM', stop)
  process.on('SIGINT', stop)
  const service = await starting
  // The demo runs this program as its child: it is told the addresses, and the gateway ends when the demo does.
  const [upstream] = service.upstreams
  process.send?.({ url: service.url, upstream, model: config.model })
  process.once('disconnect', stop)

  if (process.send !== undefined) return
  const names = service.upstreams.map(({ name, baseURL }) => `${name} (${baseURL})`)
  const providers = config.providers.length === 0 ? `its embedded provider, ${upstream?.baseURL}` : names.join(', ')
  const bearer =
    config.operatorToken !== undefined ? '$MILLRACE_TOKEN' : config.tenants.length > 0 ? "a tenant's token" : undefined
  const shared =
    config.redisURL === undefined ? '' : `\nShared through Redis at ${new URL(config.redisURL).host}: ${service.redis}.`
  const nobody =
    config.operatorToken === undefined && config.tenants.length > 0
      ? '\nNobody can see the page, statistics and metrics: set MILLRACE_TOKEN for that.'
      : ''
  console.log(`Millrace gateway on ${service.url}, in front of ${providers}

Open ${service.url} in a browser, or call it:
  curl ${service.url}/v1/chat/completions -H 'content-type: application/json' \\${bearer === undefined ? '' : `\n    -H "authorization: Bearer ${bearer}" \\`}
    -d '{"model": "${config.model}", "messages": [{"role": "user", "content": "Why is the sky blue?"}], "stream": true}'

or with any OpenAI client: baseURL ${service.url}/v1. What it does: ${service.url}/v1/stats, and
${service.url}/metrics for Prometheus.${shared}${nobody} Stop it with Ctrl+C, or kill ${process.pid}.`)
}

/** Where it was told to listen, for the line that says why it could not. */
let listening: { readonly host: string; readonly port: number } | undefined

/** The one who waits for the start has been told of its failure. */
function ignore(): void {}

function stopped(): void {
  // Listening for its end keeps the channel to the parent open, and the process with it.
  if (process.connected) process.disconnect()
  else if (process.send === undefined) console.log('Millrace gateway stopped')
}

/** One line that says what to do; a stack trace only for what nobody foresaw. */
function fail(error: unknown): void {
  process.exitCode = 1
  const text = explain(error)
  if (text === undefined) console.error(error)
  else for (const line of text.split('\n')) console.error(`millrace: ${line}`)
  process.disconnect?.()
}

function explain(error: unknown): string | undefined {
  if (error instanceof ConfigError || error instanceof TypeError) return error.message
  const { code, syscall } = error as { code?: unknown; syscall?: unknown }
  const { host, port } = listening ?? {}
  if (code === 'EADDRINUSE') return `port ${port} is in use: stop what listens there, or set PORT to another one`
  if (syscall !== 'listen' && syscall !== 'getaddrinfo') return undefined
  if (code === 'EACCES') return `port ${port} is not for this user: set PORT to one above 1023`
  // An address of another machine, or a name that nobody knows.
  return `HOST=${host} is no address of this machine (${String(code)}): set HOST to one it has, or leave it out`
}

main().catch(fail)
