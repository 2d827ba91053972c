// Who the page acts as: the user of a proxy's credential, or of a session that a login link began.

import { get, keepPageToken, send, text } from './api';
import { live } from './live.svelte';

class Session {
  user = $state('');
  anonymous = $state(false);
  /** Whether there is a session of its own, which can be ended. */
  own = $state(false);
  failure = $state('');
  /** A login link of another user, about which the user of this session is asked. */
  offer = $state.raw<{ user: string; token: string } | undefined>();

  /** Uses the login link that the page was opened with, if it was. Another user's is only offered: whoever
   *  sends a link could otherwise have this one work in a session of the sender's. Says whether there is
   *  a user. */
  async begin(): Promise<boolean> {
    const token = /^#\/login\/([\w-]+)$/.exec(location.hash)?.[1];
    if (token) {
      // The token is spent: it must not stay in the history.
      history.replaceState(null, '', `${location.pathname}#/overview`);
      dispatchEvent(new HashChangeEvent('hashchange'));
      try {
        if (await this.check()) {
          const { user } = await (await this.post('ui/session/offer', token)).json();
          if (user !== this.user) {
            this.offer = { user, token };
            return true;
          }
        }
        await this.start(token);
      } catch (error) {
        this.failure = text(error);
      }
    }
    return this.check();
  }

  /** Takes the offer, or declines it. */
  async answer(accepted: boolean): Promise<void> {
    const offer = this.offer;
    this.offer = undefined;
    if (!offer || !accepted) return;
    await this.start(offer.token);
    // Nothing of the former user's stays on the page.
    location.reload();
  }

  private async start(token: string): Promise<void> {
    const { page } = await (await this.post('ui/session', token)).json();
    keepPageToken(page);
  }

  private post(path: string, token: string): Promise<Response> {
    return send(path, { method: 'POST', type: 'text/plain', body: token });
  }

  async check(): Promise<boolean> {
    const me = await get<{ user: string; anonymous: boolean; session: boolean }>('ui/session');
    this.user = me.user;
    this.anonymous = me.anonymous;
    this.own = me.session && !me.anonymous;
    if (!me.anonymous) this.failure = '';
    return !me.anonymous;
  }

  async end() {
    await send('ui/session', { method: 'DELETE' });
    keepPageToken('');
    await this.check();
    live.reset();
  }
}

export const session = new Session();
