//! Responses that clients may come back to: in memory, bounded, gone with the process.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};

use moesaic_protocol::ChatMessage;
use moesaic_protocol::responses::{OutputItem, ResponseError, ResponseObject, ResponseStatus};
use serde_json::Value;
use tokio::task::AbortHandle;
use uuid::Uuid;

use crate::auth::ClientKey;

/// Who may come back to a response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Owner {
    /// The client, in whose share it counts.
    pub client: ClientKey,
    /// Over this connection only; `None`: in any request.
    pub connection: Option<Uuid>,
}

impl From<ClientKey> for Owner {
    fn from(client: ClientKey) -> Self {
        Self { client, connection: None }
    }
}

/// The store. Holds JSON text, so that what is counted is what is held.
#[derive(Debug)]
pub struct ResponseStore {
    max_bytes: usize,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    entries: HashMap<String, Entry>,
    /// JSON of the items of all responses, by their ids.
    items: HashMap<String, (Owner, Arc<str>)>,
    shares: HashMap<ClientKey, Share>,
    num_bytes: usize,
}

/// What one client holds.
#[derive(Debug, Default)]
struct Share {
    num_bytes: usize,
    /// Ids, oldest first.
    order: VecDeque<String>,
}

#[derive(Debug)]
struct Entry {
    owner: Owner,
    response: Arc<str>,
    conversation: Arc<str>,
    /// What it was the answer to: the items of its request.
    input_items: Arc<str>,
    item_ids: Vec<String>,
    num_bytes: usize,
    /// Of a response in the background that is not done.
    task: Option<AbortHandle>,
    is_running: bool,
}

/// Bytes that an entry takes beside its text, and each of its items.
const OVERHEAD: usize = 512;

fn json<T: serde::Serialize + ?Sized>(value: &T) -> Arc<str> {
    serde_json::to_string(value).expect("wire types always serialise").into()
}

fn read<T: serde::de::DeserializeOwned>(text: &str) -> T {
    serde_json::from_str(text).expect("written from the same type")
}

impl ResponseStore {
    /// Holds up to so many bytes; 0 for none at all.
    pub fn new(max_bytes: usize) -> Self {
        Self { max_bytes, inner: Mutex::default() }
    }

    /// Keeps a response, the conversation up to its end and the items of its request (a list in JSON), in the place of what was kept under its id. The oldest of
    /// the client that holds most make room; what is being generated stays. Whether it is kept now.
    ///
    /// The end of a response in the background counts only while its beginning is kept; one that has grown too large
    /// is kept as failed.
    pub fn put(
        &self,
        owner: impl Into<Owner>,
        response: &ResponseObject,
        conversation: &[ChatMessage],
        input_items: &Arc<str>,
    ) -> bool {
        let owner = owner.into();
        let is_running = response.background && response.status == ResponseStatus::InProgress;
        let is_end = response.background && !is_running;
        if is_end && !self.lock().end(owner, &response.id) {
            return false;
        }
        let kept = (json(conversation), Arc::clone(input_items));
        if self.insert(owner, response, kept, is_running) {
            return true;
        }
        if is_end {
            let error = ResponseError {
                code: "response_too_large".to_owned(),
                message: "The response is larger than what may be kept.".to_owned(),
            };
            let (status, output) = (ResponseStatus::Failed, Vec::new());
            let stub = ResponseObject { status, output, error: Some(error), ..response.clone() };
            self.insert(owner, &stub, ("[]".into(), "[]".into()), false);
        }
        false
    }

    fn insert(
        &self,
        owner: Owner,
        response: &ResponseObject,
        (conversation, input_items): (Arc<str>, Arc<str>),
        is_running: bool,
    ) -> bool {
        let items: Vec<(String, Arc<str>)> =
            response.output.iter().map(|item| (item.id().to_owned(), json(item))).collect();
        let text = json(response);
        let num_bytes = OVERHEAD
            + text.len()
            + conversation.len()
            + input_items.len()
            + items.iter().map(|(id, item)| OVERHEAD + id.len() + item.len()).sum::<usize>();
        let mut inner = self.lock();
        inner.remove(&response.id);
        if !inner.make_room(self.max_bytes, num_bytes) {
            return false;
        }
        inner.num_bytes += num_bytes;
        let share = inner.shares.entry(owner.client).or_default();
        share.num_bytes += num_bytes;
        share.order.push_back(response.id.clone());
        let item_ids = items.iter().map(|(id, _)| id.clone()).collect();
        inner.items.extend(items.into_iter().map(|(id, item)| (id, (owner, item))));
        let entry =
            Entry { owner, response: text, conversation, input_items, item_ids, num_bytes, task: None, is_running };
        inner.entries.insert(response.id.clone(), entry);
        true
    }

    /// Notes the task that generates a response, for its end to be possible.
    pub fn set_task(&self, id: &str, task: AbortHandle) {
        if let Some(entry) = self.lock().entries.get_mut(id).filter(|entry| entry.is_running) {
            entry.task = Some(task);
        }
    }

    /// A client's own response.
    pub fn get(&self, client: ClientKey, id: &str) -> Option<ResponseObject> {
        let text = Arc::clone(&self.lock().entry(client, id)?.response);
        Some(read(&text))
    }

    /// How an owner's response stands, and the conversation up to it.
    pub fn conversation(&self, owner: Owner, id: &str) -> Option<(ResponseStatus, Vec<ChatMessage>)> {
        let (response, conversation) = {
            let inner = self.lock();
            let entry = inner.entry(owner, id)?;
            (Arc::clone(&entry.response), Arc::clone(&entry.conversation))
        };
        Some((read::<ResponseObject>(&response).status, read(&conversation)))
    }

    /// The items that a client's own response was the answer to.
    pub fn input_items(&self, client: ClientKey, id: &str) -> Option<Vec<Value>> {
        let items = Arc::clone(&self.lock().entry(client, id)?.input_items);
        Some(read(&items))
    }

    /// An item of an owner's responses.
    pub fn item(&self, owner: Owner, id: &str) -> Option<OutputItem> {
        let item = self.lock().items.get(id).filter(|(of, _)| *of == owner).map(|(_, item)| Arc::clone(item))?;
        Some(read(&item))
    }

    /// Forgets an owner's response, and ends it if it is still being generated. Whether there was one.
    pub fn delete(&self, owner: impl Into<Owner>, id: &str) -> bool {
        let mut inner = self.lock();
        let exists = inner.entry(owner, id).is_some();
        if exists {
            inner.remove(id);
        }
        exists
    }

    /// Forgets all responses of an owner.
    pub fn forget(&self, owner: Owner) {
        let mut inner = self.lock();
        let own = inner.entries.iter().filter(|(_, entry)| entry.owner == owner).map(|(id, _)| id.clone());
        for id in own.collect::<Vec<_>>() {
            inner.remove(&id);
        }
    }

    /// Ends a client's own response if it is still being generated in the background.
    pub fn cancel(&self, client: ClientKey, id: &str) -> Option<ResponseObject> {
        let mut response = self.get(client, id)?;
        let was_running = self.lock().end(client.into(), id);
        if !was_running {
            return self.get(client, id);
        }
        let entry = |inner: &Inner| {
            let entry = inner.entry(client, id)?;
            Some((Arc::clone(&entry.conversation), Arc::clone(&entry.input_items)))
        };
        let kept = entry(&self.lock()).unwrap_or_else(|| ("[]".into(), "[]".into()));
        response.status = ResponseStatus::Cancelled;
        self.insert(client.into(), &response, kept, false);
        Some(response)
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().expect("nothing panics while it holds the lock")
    }
}

impl Inner {
    fn entry(&self, owner: impl Into<Owner>, id: &str) -> Option<&Entry> {
        let owner = owner.into();
        self.entries.get(id).filter(|entry| entry.owner == owner)
    }

    /// Ends a response that is being generated: whoever calls it first says how. Whether it was being generated.
    fn end(&mut self, owner: Owner, id: &str) -> bool {
        let Some(entry) = self.entries.get_mut(id).filter(|entry| entry.owner == owner && entry.is_running) else {
            return false;
        };
        entry.is_running = false;
        if let Some(task) = entry.task.take() {
            // A task that ends its own response has nothing left to wait for, so this does not reach it.
            task.abort();
        }
        true
    }

    fn make_room(&mut self, max_bytes: usize, wanted: usize) -> bool {
        while self.num_bytes + wanted > max_bytes {
            let is_done = |id: &&String| self.entries.get(*id).is_some_and(|entry| !entry.is_running);
            let oldest_done = |share: &Share| share.order.iter().find(is_done).cloned();
            let mut shares: Vec<&Share> = self.shares.values().collect();
            shares.sort_by_key(|share| std::cmp::Reverse(share.num_bytes));
            let Some(id) = shares.into_iter().find_map(oldest_done).filter(|_| wanted <= max_bytes) else {
                return false;
            };
            self.remove(&id);
        }
        true
    }

    /// What nobody can come back to need not be generated.
    fn remove(&mut self, id: &str) {
        let Some(entry) = self.entries.remove(id) else { return };
        self.num_bytes -= entry.num_bytes;
        for item in &entry.item_ids {
            self.items.remove(item);
        }
        if let Some(share) = self.shares.get_mut(&entry.owner.client) {
            share.num_bytes -= entry.num_bytes;
            share.order.retain(|other| other != id);
            if share.order.is_empty() {
                self.shares.remove(&entry.owner.client);
            }
        }
        if let Some(task) = entry.task {
            task.abort();
        }
    }
}

#[cfg(test)]
mod tests {
    use moesaic_protocol::Role;

    use super::*;

    const ANN: ClientKey = ClientKey(Some([1; 32]));
    const BOB: ClientKey = ClientKey(Some([2; 32]));

    fn response(id: &str) -> ResponseObject {
        ResponseObject { id: id.to_owned(), status: ResponseStatus::Completed, ..ResponseObject::default() }
    }

    fn running(id: &str) -> ResponseObject {
        ResponseObject { background: true, status: ResponseStatus::InProgress, ..response(id) }
    }

    fn none() -> Arc<str> {
        "[]".into()
    }

    fn said(text: String) -> ChatMessage {
        ChatMessage::new(Role::User, Some(text.into()))
    }

    fn one() -> usize {
        json(&running("resp_0")).len() + OVERHEAD + 2
    }

    #[test]
    fn the_oldest_make_room_and_tenants_do_not_meet() {
        let store = ResponseStore::new(3 * one() + one() / 2);
        for index in 0..5 {
            assert!(store.put(ANN, &response(&format!("resp_{index}")), &[], &none()));
            assert!(store.lock().num_bytes <= store.max_bytes);
        }
        let found: Vec<bool> = (0..5).map(|index| store.get(ANN, &format!("resp_{index}")).is_some()).collect();
        assert_eq!(found, [false, false, true, true, true]);
        assert!(store.get(BOB, "resp_4").is_none() && !store.delete(BOB, "resp_4"));
        assert!(store.cancel(BOB, "resp_4").is_none() && store.conversation(BOB.into(), "resp_4").is_none());
        store.put(ANN, &response("resp_4"), &[], &none());
        assert!(store.delete(ANN, "resp_4") && !store.delete(ANN, "resp_4"));
        let too_large = [said("x".repeat(10 * one()))];
        assert!(!store.put(ANN, &response("resp_9"), &too_large, &none()));
        assert!(store.get(ANN, "resp_9").is_none() && store.get(ANN, "resp_3").is_some());
        for index in 0..5 {
            store.delete(ANN, &format!("resp_{index}"));
        }
        let inner = store.lock();
        assert_eq!((inner.num_bytes, inner.shares.len(), inner.items.len()), (0, 0, 0));
    }

    #[test]
    fn one_client_cannot_crowd_out_another_nor_what_is_running() {
        let store = ResponseStore::new(4 * one());
        assert!(store.put(ANN, &response("a"), &[], &none()) && store.put(BOB, &running("running"), &[], &none()));
        for index in 0..9 {
            assert!(store.put(BOB, &response(&format!("b{index}")), &[], &none()));
        }
        assert!(store.get(ANN, "a").is_some() && store.get(BOB, "running").is_some() && store.get(BOB, "b8").is_some());
        let full = ResponseStore::new(2 * one());
        assert!(full.put(ANN, &running("x"), &[], &none()) && full.put(ANN, &running("y"), &[], &none()));
        assert!(!full.put(ANN, &running("z"), &[], &none()), "nothing may make room");
    }

    /// What belongs to a connection is found over it alone, counts in its client's share and goes with it.
    #[test]
    fn connections_do_not_meet() {
        let store = ResponseStore::new(3 * one() + one() / 2);
        let [here, there] = [1, 2].map(|id| Owner { client: ANN, connection: Some(Uuid::from_u128(id)) });
        assert!(store.put(here, &response("a"), &[], &none()) && store.put(there, &response("b"), &[], &none()));
        assert!(store.conversation(here, "a").is_some() && store.get(ANN, "a").is_none());
        assert!(store.conversation(there, "a").is_none() && !store.delete(there, "a") && !store.delete(ANN, "a"));
        store.put(BOB, &response("c"), &[], &none());
        store.put(ANN, &response("d"), &[], &none());
        assert!(store.conversation(here, "a").is_none(), "the oldest of the client that holds most made room");
        store.forget(there);
        assert!(store.conversation(there, "b").is_none() && store.get(ANN, "d").is_some());
        assert!(store.delete(ANN, "d") && store.delete(BOB, "c"));
        assert_eq!(store.lock().num_bytes, 0);
    }

    #[test]
    fn a_background_response_ends_once() {
        let store = ResponseStore::new(3 * one());
        let done = |id: &str| ResponseObject { background: true, ..response(id) };
        assert!(!store.put(ANN, &done("never begun"), &[], &none()));
        store.put(ANN, &running("a"), &[], &none());
        assert_eq!(store.cancel(ANN, "a").unwrap().status, ResponseStatus::Cancelled);
        assert!(!store.put(ANN, &done("a"), &[], &none()), "it was cancelled before");
        assert_eq!(store.get(ANN, "a").unwrap().status, ResponseStatus::Cancelled);
        store.put(ANN, &running("b"), &[], &none());
        assert!(store.put(ANN, &done("b"), &[], &none()));
        assert_eq!(store.cancel(ANN, "b").unwrap().status, ResponseStatus::Completed);
        store.put(ANN, &running("c"), &[], &none());
        assert!(!store.put(ANN, &done("c"), &[said("x".repeat(10 * one()))], &none()));
        let failed = store.get(ANN, "c").unwrap();
        assert_eq!(
            (failed.status, failed.error.unwrap().code.as_str()),
            (ResponseStatus::Failed, "response_too_large")
        );
    }
}
