// The package has no types of its own.
declare module 'proxy-from-env' {
  /** The proxy the environment names for this URL, or an empty string. */
  export function getProxyForUrl(url: string): string
}
