/** Where a Redis is and how to log in, in parts: no object of the client holds the URL with its password as one string to print. */
export interface RedisAddress {
  readonly login: { readonly username?: string; readonly password?: string; readonly database?: number }
  readonly socket: { readonly host: string; readonly port: number; readonly tls?: true }
}

/** @throws {TypeError} that never repeats the URL, for it may hold a password */
export function addressOf(url: string): RedisAddress {
  const parsed = typeof url === 'string' ? URL.parse(url) : null
  if (parsed === null || (parsed.protocol !== 'redis:' && parsed.protocol !== 'rediss:') || parsed.hostname === '') {
    throw new TypeError(
      "connection must be a Redis URL, such as 'redis://127.0.0.1:6379' or 'rediss://user:password@host:6380/0'"
    )
  }
  const database = parsed.pathname.slice(1)
  if (!/^\d{0,4}$/.test(database)) throw new TypeError('the path of the Redis URL must be a database number, such as /0')
  return {
    login: {
      ...(parsed.username === '' ? {} : { username: decoded(parsed.username) }),
      ...(parsed.password === '' ? {} : { password: decoded(parsed.password) }),
      ...(database === '' ? {} : { database: Number(database) })
    },
    socket: {
      host: parsed.hostname.replace(/^\[|\]$/g, ''),
      port: parsed.port === '' ? 6379 : Number(parsed.port),
      ...(parsed.protocol === 'rediss:' ? { tls: true } : {})
    }
  }
}

function decoded(part: string): string {
  try {
    return decodeURIComponent(part)
  } catch {
    // Without the cause, which may quote it.
    throw new TypeError("user and password in the Redis URL must be percent-encoded, a '%' as '%25': use encodeURIComponent()")
  }
}
